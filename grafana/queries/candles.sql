-- Candles of the symbol @symbol. Bars are joined where the panel has not room for all of them.
SELECT
    toStartOfInterval(b.open_time, @whole_bars) AS "Time",
    argMin(b.open, b.open_time) AS "open",
    max(b.high) AS "high",
    min(b.low) AS "low",
    argMax(b.close, b.open_time) AS "close",
    sum(b.volume) AS "volume"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.symbol IN (@symbol) AND b.timeframe = ${bars:singlequote}
    AND $__timeFilter_ms(b.open_time)
GROUP BY "Time"
ORDER BY "Time"
