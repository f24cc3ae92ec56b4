-- Change of both prices since the beginning of the time range, %.
SELECT "Time", 100 * ("Y" / first_value("Y") OVER (ORDER BY "Time" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - 1) AS "Y",
    100 * ("X" / first_value("X") OVER (ORDER BY "Time" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - 1) AS "X"
FROM
(
    SELECT
        toStartOfInterval(b.open_time, @whole_bars) AS "Time",
        argMaxOrNullIf(b.close, b.open_time, b.symbol = ${y:singlequote}) AS "Y",
        argMaxOrNullIf(b.close, b.open_time, b.symbol = ${x:singlequote}) AS "X"
    FROM stored_bars AS b FINAL
    WHERE b.market = ${market:singlequote} AND b.symbol IN (${y:singlequote}, ${x:singlequote}) AND b.timeframe = ${bars:singlequote}
        AND $__timeFilter_ms(b.open_time)
    GROUP BY "Time"
    ORDER BY "Time"
)
ORDER BY "Time"
