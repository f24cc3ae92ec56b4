-- Gaps in the trades of both legs, as annotations.
SELECT g.detected AS "time", ifNull(g.repaired, now64(6)) AS "timeEnd",
    concat(g.symbol, ': ', toString(g.missing), ' trades missing') AS "title",
    concat('cause: ', g.cause, ', repaired: ', g.repair, ', restored: ', toString(g.restored)) AS "text",
    g.symbol AS "tags"
FROM gaps AS g
WHERE g.market = ${market:singlequote} AND g.symbol IN (${y:singlequote}, ${x:singlequote})
    AND $__timeFilter_ms(g.detected)
ORDER BY g.detected DESC
LIMIT 200
