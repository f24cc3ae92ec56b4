-- Each rule of the user on each pair that it fits: the metric now, and whether the rule fires.
SELECT '' AS one_frame, if(s.firing = 1, 1, 0) AS "State", s.name AS "Rule", s.pair AS "Pair",
    concat(s.timeframe, ' × ', toString(s.window)) AS "Bars", s.method AS "Method", s.metric AS "Metric",
    s.value AS "Now", concat(s.condition, ' ', toString(s.threshold)) AS "Condition", s.time AS "At",
    splitByChar('/', s.pair)[1] AS y, splitByChar('/', s.pair)[2] AS x
FROM alert_states AS s
ORDER BY "State" DESC, s.name, s.pair
LIMIT 500
