-- Position of the pair (-1 short, 1 long, 0 flat) by timeframe and window, up to the end of the time range.
SELECT "Time", series, argMax(position, since) AS "Value"
FROM
(
    SELECT arrayJoin([greatest(m.time, toDateTime64($__fromTime_ms, 6)), toDateTime64($__toTime_ms, 6)]) AS "Time", m.time AS since,
        concat(m.timeframe, ' × ', toString(m.window)) AS series, transform(m.signal, ['short', 'long'], [-1, 1], 0) AS position
    FROM stored_signals AS m FINAL
    WHERE m.market = ${market:singlequote} AND m.pair = @pair_name AND m.method = ${method:singlequote} AND m.time <= $__toTime_ms
    UNION ALL
    SELECT arrayJoin([greatest(toDateTime64(0, 6), toDateTime64($__fromTime_ms, 6)), toDateTime64($__toTime_ms, 6)]) AS "Time", toDateTime64(0, 6) AS since,
        concat(m.timeframe, ' × ', toString(m.window)) AS series, 0 AS position
    FROM stored_latest_pair_metrics AS m
    WHERE m.market = ${market:singlequote} AND m.pair = @pair_name AND m.method = ${method:singlequote} AND m.timeframe != 'tick'
)
GROUP BY "Time", series
ORDER BY "Time", series
