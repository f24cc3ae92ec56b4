-- Missing, provisional and revised bars of each symbol by hour.
SELECT '' AS one_frame, toStartOfHour(b.open_time) AS "Hour", b.symbol AS "Symbol", count() AS "Bars",
    sum(b.trades) AS "Trades",
    if(countIf(b.first_id >= 0) = 0, 0, maxIf(b.last_id, b.first_id >= 0) - minIf(b.first_id, b.first_id >= 0) + 1
        - toInt64(sumIf(b.trades, b.first_id >= 0))) AS "Missing ids",
    countIf(b.provisional) AS "Provisional", countIf(b.version > 1) AS "Revised",
    countIf(b.trades = 0) AS "Without trades"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.timeframe = ${bars:singlequote}
    AND b.open_time >= toStartOfHour($__fromTime_ms) AND b.open_time <= $__toTime_ms
GROUP BY "Hour", b.symbol
ORDER BY "Hour" DESC, b.symbol
LIMIT 500
