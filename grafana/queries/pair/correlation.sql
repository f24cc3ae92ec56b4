-- Correlation of prices and of returns over time.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.correlation, m.time, isFinite(m.correlation)) AS "of prices",
    argMaxOrNullIf(m.return_correlation, m.time, isFinite(m.return_correlation)) AS "of returns"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
