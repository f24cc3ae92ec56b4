-- Statistics of the pair at the end of the time range, and the position after its last signal.
SELECT '' AS one_frame,
    (SELECT transform(argMax(s.signal, s.time), ['short', 'long'], [-1, 1], 0) FROM stored_signals AS s FINAL
        WHERE s.market = ${market:singlequote} AND s.pair = @pair_name AND s.timeframe = ${timeframe:singlequote} AND s.window = toUInt32OrZero(${window:singlequote}) AND s.method = ${method:singlequote} AND s.time <= $__toTime_ms) AS "Spread is",
    argMaxOrNullIf(m.z_score, m.time, isFinite(m.z_score)) AS "z-score",
    argMaxOrNullIf(m.hedge_ratio, m.time, isFinite(m.hedge_ratio)) AS "Hedge ratio",
    argMaxOrNullIf(m.correlation, m.time, isFinite(m.correlation)) AS "Correlation",
    argMaxOrNullIf(m.return_correlation, m.time, isFinite(m.return_correlation)) AS "of returns",
    @adf_reading AS "Cointegration",
    argMaxOrNullIf(m.adf_p_value, m.time, isFinite(m.adf_p_value)) AS p,
    argMaxOrNullIf(m.half_life, m.time, isFinite(m.half_life)) * @bar_ms / 1000 AS "Half-life"
FROM stored_pair_metrics AS m FINAL
WHERE @selected_pair
    AND $__timeFilter_ms(m.time)
