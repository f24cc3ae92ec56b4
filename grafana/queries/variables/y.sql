-- Symbols Y of pairs.
SELECT y FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} GROUP BY y ORDER BY @order_of_last_run, y
