-- First and last bar of the selected symbol. Only the ends of the sorting key are read.
SELECT ifNull(toUnixTimestamp64Micro((SELECT b.open_time FROM stored_bars AS b WHERE b.market = ${market:singlequote} AND b.symbol = ${y:singlequote} AND b.timeframe = ${bars:singlequote} ORDER BY b.open_time LIMIT 1)), 0) AS first,
    ifNull(toUnixTimestamp64Micro((SELECT b.open_time FROM stored_bars AS b WHERE b.market = ${market:singlequote} AND b.symbol = ${y:singlequote} AND b.timeframe = ${bars:singlequote} ORDER BY b.open_time DESC LIMIT 1)), 0) AS last,
    ifNull((SELECT CAST(b.source, 'String') FROM stored_bars AS b WHERE b.market = ${market:singlequote} AND b.symbol = ${y:singlequote} AND b.timeframe = ${bars:singlequote} ORDER BY b.open_time DESC LIMIT 1), '') AS source
