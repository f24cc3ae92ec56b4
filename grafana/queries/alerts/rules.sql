-- The user's alert rules; an empty field of a rule stands for all values.
SELECT '' AS one_frame, r.name AS "Name", if(r.enabled, 1, 0) AS "On", if(r.pair = '', 'all', r.pair) AS "Pair",
    concat(if(r.timeframe = '', 'all', r.timeframe), ' × ', if(r.window = 0, 'all', toString(r.window))) AS "Bars",
    if(r.method = '', 'all', r.method) AS "Method", r.metric AS "Metric",
    concat(toString(r.condition), ' ', toString(r.threshold)) AS "Condition", r.for_seconds AS "For",
    r.note AS "Note", r.created AS "Written"
FROM alert_rules AS r
ORDER BY r.created DESC
LIMIT 500
