-- The last starts of the flow, with the versions it ran on.
SELECT '' AS one_frame, r.started AS "Started", r.source AS "Source", r.market AS "Market",
    arrayStringConcat(r.symbols, ', ') AS "Symbols", length(r.pairs) AS "Pairs",
    arrayStringConcat(arrayPushBack(arrayMap((name, version) -> concat(name, ' ', version), mapKeys(r.versions),
        mapValues(r.versions)), concat('now on ClickHouse ', version())), ', ') AS "Versions",
    concat(r.host, ', process ', toString(r.pid)) AS "Where"
FROM runs AS r
ORDER BY r.started DESC
LIMIT 20
