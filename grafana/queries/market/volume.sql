-- Volume of each symbol over time, in the quote asset.
SELECT
    toStartOfInterval(b.open_time, @whole_bars) AS "Time",
    b.symbol AS series,
    sum(b.quote_volume) AS "Value"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.timeframe = ${bars:singlequote}
    AND $__timeFilter_ms(b.open_time)
GROUP BY "Time", series
ORDER BY "Time"
