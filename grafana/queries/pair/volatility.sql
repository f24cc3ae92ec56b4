-- Annualised volatility of both legs: a year has 31,536,000,000 ms.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.volatility_y, m.time, isFinite(m.volatility_y)) * sqrt(31536000000 / @bar_ms) AS "Y",
    argMaxOrNullIf(m.volatility_x, m.time, isFinite(m.volatility_x)) * sqrt(31536000000 / @bar_ms) AS "X"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
