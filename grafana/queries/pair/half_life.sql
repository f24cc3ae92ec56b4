-- Half-life of the spread over time, s.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.half_life, m.time, isFinite(m.half_life)) * @bar_ms / 1000 AS "half-life"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
