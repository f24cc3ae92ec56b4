-- Last price, change (%) and volume of both legs in the time range.
SELECT '' AS one_frame,
    toString(argMaxOrNullIf(b.close, b.open_time, b.symbol = ${y:singlequote})) AS "Price of Y",
    100 * (argMaxOrNullIf(b.close, b.open_time, b.symbol = ${y:singlequote}) / argMinOrNullIf(b.open, b.open_time, b.symbol = ${y:singlequote}) - 1)
        AS "Change of Y",
    sumOrNullIf(b.quote_volume, b.symbol = ${y:singlequote}) AS "Volume of Y",
    toString(argMaxOrNullIf(b.close, b.open_time, b.symbol = ${x:singlequote})) AS "Price of X",
    100 * (argMaxOrNullIf(b.close, b.open_time, b.symbol = ${x:singlequote}) / argMinOrNullIf(b.open, b.open_time, b.symbol = ${x:singlequote}) - 1)
        AS "Change of X",
    sumOrNullIf(b.quote_volume, b.symbol = ${x:singlequote}) AS "Volume of X"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.symbol IN (${y:singlequote}, ${x:singlequote}) AND b.timeframe = ${bars:singlequote}
    AND $__timeFilter_ms(b.open_time)
