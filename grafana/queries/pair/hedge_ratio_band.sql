-- 95 % confidence band of the hedge ratio of the selected method.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.hedge_ratio, m.time, isFinite(m.hedge_ratio)) + 1.96 * argMaxOrNullIf(m.hedge_ratio_stderr, m.time, isFinite(m.hedge_ratio_stderr)) AS "95 % above",
    argMaxOrNullIf(m.hedge_ratio, m.time, isFinite(m.hedge_ratio)) - 1.96 * argMaxOrNullIf(m.hedge_ratio_stderr, m.time, isFinite(m.hedge_ratio_stderr)) AS "95 % below"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
