-- The newest signals in the time range, of all pairs.
SELECT '' AS one_frame, m.time AS "At", m.pair AS "Pair", transform(m.signal, ['short', 'long'], [-1, 1], 0) AS "Signal",
    concat(m.timeframe, ' × ', toString(m.window)) AS "Bars", m.method AS "Method", m.z_score AS "z-score", m.hedge_ratio AS "Hedge ratio",
    m.spread AS "Spread", toString(m.price_y) AS "Price of Y",
    toString(m.price_x) AS "Price of X", m.y AS y, m.x AS x
FROM stored_signals AS m FINAL
WHERE m.market = ${market:singlequote} AND $__timeFilter_ms(m.time)
ORDER BY m.time DESC
LIMIT 1000
