-- All pairs at the end of the time range with their last signal, those with the largest |z| first.
        SELECT '' AS one_frame, n.pair AS "Pair", abs(n.z_score) AS "|z|", n.z_score AS "z-score", s.position AS "Spread is",
            if(isFinite(n.return_correlation), n.return_correlation, NULL) AS "Corr. returns", if(isFinite(n.correlation), n.correlation, NULL) AS "Corr. prices", if(isFinite(n.adf_p_value), n.adf_p_value, NULL) AS "ADF p",
            @adf_reading AS "Cointegration",
            if(isFinite(n.half_life), n.half_life, NULL) * @bar_ms / 1000 AS "Half-life", if(isFinite(n.hedge_ratio), n.hedge_ratio, NULL) AS "Hedge ratio",
            if(isFinite(n.r_squared), n.r_squared, NULL) AS "R²", n.y AS y, n.x AS x
        FROM
        (
            @newest_of_each_pair
) AS n
        LEFT JOIN
        (
            SELECT m.pair AS pair, transform(argMax(m.signal, m.time), ['short', 'long'], [-1, 1], 0) AS position
            FROM stored_signals AS m FINAL
            WHERE @all_pairs AND m.time <= $__toTime_ms
            GROUP BY m.pair
        ) AS s ON s.pair = n.pair
        WHERE isFinite(n.z_score)
        ORDER BY "|z|" DESC
