-- The newest sample of the last minute of the time range; no row if the flow has written none.
SELECT '' AS one_frame,
    (maxIf(value, name = 'pairflow_trades_total' AND place = 1)
        - maxIf(value, name = 'pairflow_trades_total' AND place = 2))
        / nullIf(dateDiff('millisecond', maxIf(time, place = 2), maxIf(time, place = 1)) / 1000, 0) AS rate,
    if(rate < 0, NULL, rate) AS "Trades/s",
    if(isFinite(maxIf(value, name = 'pairflow_bar_lag_seconds' AND place = 1)), maxIf(value, name = 'pairflow_bar_lag_seconds' AND place = 1), NULL) AS "Bar end to stored",
    sumIf(value, name = 'pairflow_connection' AND labels['state'] = 'live' AND place = 1) AS "Live connections",
    maxIf(value, name = 'pairflow_open_gaps' AND place = 1) AS "Open gaps",
    maxIf(value, name = 'pairflow_rows_waiting' AND place = 1) AS "Rows waiting",
    maxIf(value, name = 'pairflow_insert_failing_seconds' AND place = 1) AS "Inserts failing for",
    maxIf(value, name = 'process_resident_memory_bytes' AND place = 1) AS "Memory",
    count() AS n
FROM
(
    SELECT s.time AS time, s.name AS name, s.labels AS labels, s.value AS value,
        dense_rank() OVER (ORDER BY s.time DESC) AS place
    FROM pipeline_metrics AS s
    WHERE s.name IN ('pairflow_trades_total', 'pairflow_bar_lag_seconds', 'pairflow_connection',
        'pairflow_open_gaps', 'pairflow_rows_waiting', 'pairflow_insert_failing_seconds',
        'process_resident_memory_bytes')
        AND s.time <= $__toTime_ms AND s.time >= $__toTime_ms - INTERVAL 1 MINUTE
)
HAVING n > 0
