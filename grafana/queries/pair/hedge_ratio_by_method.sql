-- Hedge ratio over time, a series for each method that the flow computes.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    m.method AS series,
    argMaxOrNullIf(m.hedge_ratio, m.time, isFinite(m.hedge_ratio)) AS "Value"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair_any_method
    AND $__timeFilter_ms(m.time)
GROUP BY "Time", series
ORDER BY "Time"
