-- z-scores at which the pipeline gave a signal, a column for each kind of signal.
SELECT m.time AS "Time",
    if(m.signal = 'short', m.z_score, NULL) AS "short",
    if(m.signal = 'long', m.z_score, NULL) AS "long",
    if(m.signal = 'exit', m.z_score, NULL) AS "flat"
FROM stored_signals AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
ORDER BY m.time
