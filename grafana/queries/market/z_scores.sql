-- z-scores of the eight pairs that have the largest |z| at the end of the time range.
SELECT
    toStartOfInterval(m.time, @whole_bars) AS "Time",
    m.pair AS series,
    argMaxOrNullIf(m.z_score, m.time, isFinite(m.z_score)) AS "Value"
FROM stored_pair_metrics AS m FINAL
WHERE @all_pairs
    AND m.pair IN (SELECT pair FROM
        (
            @newest_of_each_pair
) WHERE isFinite(z_score) ORDER BY abs(z_score) DESC LIMIT 8)
    AND $__timeFilter_ms(m.time)
GROUP BY "Time", series
ORDER BY "Time"
