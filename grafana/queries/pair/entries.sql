-- Entries of the pair as annotations. More than 12 would hide the panels: then there are none.
SELECT m.time AS "time", concat(m.signal, ' at z ', toString(round(m.z_score, 2))) AS "title",
    concat('spread ', toString(m.spread), ', hedge ratio ', toString(m.hedge_ratio)) AS "text",
    m.signal AS "tags"
FROM stored_signals AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time) AND m.signal != 'exit'
    AND (SELECT count() FROM stored_signals AS m FINAL
        WHERE @selected_pair AND $__timeFilter_ms(m.time) AND m.signal != 'exit') <= 12
ORDER BY m.time
