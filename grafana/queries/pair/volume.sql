-- Volume of both legs over time, in the quote asset.
SELECT
    toStartOfInterval(b.open_time, @whole_bars) AS "Time",
    sumIf(b.quote_volume, b.symbol = ${y:singlequote}) AS "Y",
    sumIf(b.quote_volume, b.symbol = ${x:singlequote}) AS "X"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.symbol IN (${y:singlequote}, ${x:singlequote}) AND b.timeframe = ${bars:singlequote}
    AND $__timeFilter_ms(b.open_time)
GROUP BY "Time"
ORDER BY "Time"
