-- Growth of the counter @counter per second, a series for each @series.
-- A restart sets counters back to 0: the value is then the growth since the restart.
SELECT "Time", series, increase / divisor AS "Value"
FROM
(
    SELECT "Time", series, row_number() OVER w AS place,
        if(a < lagInFrame(a) OVER w, a, a - lagInFrame(a) OVER w) AS increase,
        dateDiff('millisecond', lagInFrame("Time") OVER w, "Time") / 1000 AS divisor
    FROM
    (
        SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS "Time",
            @series AS series, maxIf(s.value, s.name = '@counter') AS a,
            maxIf(s.value, s.name != '@counter') AS b
        FROM pipeline_metrics AS s
        WHERE s.name IN ('@counter') AND $__timeFilter_ms(s.time)
        GROUP BY "Time", series
    )
    WINDOW w AS (PARTITION BY series ORDER BY "Time" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE place > 1 AND divisor > 0
ORDER BY "Time", series
