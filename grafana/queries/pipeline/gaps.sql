-- Gaps that were noticed in the time range, and all that are open.
SELECT '' AS one_frame, g.detected AS "Noticed", g.symbol AS "Symbol", g.missing AS "Trades", g.cause AS "Cause",
    g.repair AS "Repair", dateDiff('millisecond', g.detected, ifNull(g.repaired, now64(6))) / 1000 AS "Took",
    g.restored AS "Restored", toString(g.first_id) AS "First id", toString(g.last_id) AS "Last id"
FROM gaps AS g
WHERE g.market = ${market:singlequote} AND (g.repaired IS NULL OR $__timeFilter_ms(g.detected))
ORDER BY g.detected DESC
LIMIT 200
