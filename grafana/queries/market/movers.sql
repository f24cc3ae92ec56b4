-- Price change, range, volume and trades of each symbol within the time range.
SELECT '' AS one_frame, b.symbol AS "Symbol", toString(argMax(b.close, b.open_time)) AS "Price",
    100 * (argMax(b.close, b.open_time) / argMin(b.open, b.open_time) - 1) AS "Change",
    100 * (max(b.high) / min(b.low) - 1) AS "Range", sum(b.quote_volume) AS "Volume",
    sum(b.trades) AS "Trades", sum(b.taker_buy_quote_volume) / nullIf(sum(b.quote_volume), 0) AS "Buys"
FROM stored_bars AS b FINAL
WHERE b.market = ${market:singlequote} AND b.timeframe = ${bars:singlequote} AND $__timeFilter_ms(b.open_time)
GROUP BY b.symbol
ORDER BY abs("Change") DESC
