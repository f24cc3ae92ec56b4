-- Spread, its mean, and the bands at which the z-score enters.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    argMaxOrNullIf(m.spread, m.time, isFinite(m.spread)) - argMaxOrNullIf(m.spread_mean, m.time, isFinite(m.spread_mean)) AS "spread less its mean",
    @z_entry * argMaxOrNullIf(m.spread_std, m.time, isFinite(m.spread_std)) AS "entry above",
    -@z_entry * argMaxOrNullIf(m.spread_std, m.time, isFinite(m.spread_std)) AS "entry below",
    argMaxOrNullIf(m.spread, m.time, isFinite(m.spread)) AS "spread",
    argMaxOrNullIf(m.spread_mean, m.time, isFinite(m.spread_mean)) AS "mean"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
GROUP BY "Time"
ORDER BY "Time"
