-- State of each connection over time: 1 connecting, 2 live, 3 retiring.
-- A state ends (0) where no sample follows in time: Grafana would draw it up to now.
SELECT state.1 AS "Time", series, state.2 AS "Value"
FROM
(
    SELECT at, series, value, leadInFrame(toNullable(at)) OVER (PARTITION BY series ORDER BY at
        ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
    FROM
    (
        SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS at,
            concat('connection ', s.labels['name']) AS series, argMax(transform(s.labels['state'],
                ['connecting', 'live', 'retiring'], [1, 2, 3], 0), s.time) AS value
        FROM pipeline_metrics AS s
        WHERE s.name = 'pairflow_connection' AND $__timeFilter_ms(s.time)
        GROUP BY at, series
    )
)
ARRAY JOIN if(dateDiff('millisecond', at, ifNull(following, $__toTime_ms)) > greatest(15000, 2 * $__interval_ms),
    [(at, value), (at + toIntervalMillisecond(greatest(15000, 2 * $__interval_ms)), 0)], [(at, value)]) AS state
ORDER BY "Time", series
