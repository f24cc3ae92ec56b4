-- z-score over time, with the levels of entry and exit as constant series.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.z_score, m.time, isFinite(m.z_score)) AS "z-score",
    any(@z_entry) AS "entry",
    any(-@z_entry) AS "-entry",
    any(@z_exit) AS "exit",
    any(-@z_exit) AS "-exit"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
