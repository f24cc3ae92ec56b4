-- Timeframes, the shortest first.
SELECT timeframe FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} GROUP BY timeframe ORDER BY @timeframe_ms
