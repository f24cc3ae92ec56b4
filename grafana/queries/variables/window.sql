-- Windows, in bars.
SELECT toString(window) AS bars FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} GROUP BY window ORDER BY window
