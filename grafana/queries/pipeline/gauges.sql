-- Values of the gauges @names over time, called @labels in the panel.
SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS "Time",
    transform(s.name, [@names], [@labels], '') AS series,
    max(s.value) AS "Value"
FROM pipeline_metrics AS s
WHERE s.name IN (@names) AND $__timeFilter_ms(s.time) AND isFinite(s.value)
GROUP BY "Time", series
ORDER BY "Time", series
