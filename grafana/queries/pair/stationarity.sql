-- p-value and statistic of the augmented Dickey-Fuller test of the spread over time.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.adf_p_value, m.time, isFinite(m.adf_p_value)) AS "p-value",
    argMaxOrNullIf(m.adf_statistic, m.time, isFinite(m.adf_statistic)) AS "ADF statistic"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
