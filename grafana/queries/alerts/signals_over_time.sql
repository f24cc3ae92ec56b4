-- Number of signals of each kind over time.
SELECT toStartOfInterval(m.time, toIntervalMillisecond($__interval_ms)) AS "Time",
    countIf(m.signal = 'short') AS "short", countIf(m.signal = 'long') AS "long", countIf(m.signal = 'exit') AS "exit"
FROM stored_signals AS m FINAL
WHERE m.market = ${market:singlequote} AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
