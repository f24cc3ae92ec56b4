-- First time of the selected pair, last time of all pairs. Only the ends of the sorting key are read.
SELECT
    ifNull(toUnixTimestamp64Micro((
        SELECT m.time FROM stored_pair_metrics AS m WHERE @selected_pair ORDER BY m.time LIMIT 1)), 0) AS first,
    toUnixTimestamp64Micro(max(l.time)) AS last, anyLast(l.source) AS source
FROM stored_latest_pair_metrics AS l
WHERE l.market = ${market:singlequote} AND l.timeframe = ${timeframe:singlequote} AND l.window = toUInt32OrZero(${window:singlequote}) AND l.method = ${method:singlequote}
