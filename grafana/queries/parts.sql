-- Parts that queries share. `@name` in a query stands for the text below the line `-- @name: ..` of this file.
-- See grafana/sql.py for the rules.

-- @bar_ms: length of a bar, ms
toInt64OrZero(${bar_ms:singlequote})

-- @whole_bars: time that one point stands for, in whole bars, so that there is about one point a pixel
toIntervalMillisecond(intDiv($__interval_ms + @bar_ms - 1, @bar_ms) * @bar_ms)

-- @z_entry: z-score beyond which the last run enters a spread
toFloat64OrZero(${z_entry:singlequote})

-- @z_exit: z-score within which the last run leaves a spread
toFloat64OrZero(${z_exit:singlequote})

-- @pair_name: the selected pair, as Y/X
concat(${y:singlequote}, '/', ${x:singlequote})

-- @selected_pair_any_method: condition on rows `m` of the selected pair, by any method
m.market = ${market:singlequote} AND m.pair = @pair_name AND m.timeframe = ${timeframe:singlequote} AND m.window = toUInt32OrZero(${window:singlequote})

-- @selected_pair: condition on rows `m` of the selected pair and method
@selected_pair_any_method AND m.method = ${method:singlequote}

-- @all_pairs: condition on rows `m` of every pair
m.market = ${market:singlequote} AND m.timeframe = ${timeframe:singlequote} AND m.window = toUInt32OrZero(${window:singlequote}) AND m.method = ${method:singlequote}

-- @newest_of_each_pair: query of the newest row of each pair at the end of the time range
-- Pairs may lag behind each other: a row counts if it is at most three bars old, or one minute.
SELECT *
FROM stored_pair_metrics AS m FINAL
WHERE @all_pairs
    AND m.time <= $__toTime_ms AND m.time >= $__toTime_ms - toIntervalMillisecond(greatest(60000, 3 * @bar_ms))
ORDER BY m.time DESC
LIMIT 1 BY m.pair

-- @returns_of_legs: query of the returns of both legs from point to point, %, where both have one
SELECT maxIf(change, series = ${x:singlequote}) AS rx, maxIf(change, series = ${y:singlequote}) AS ry
FROM
(
    SELECT "Time", series, 100 * (close / lagInFrame(toNullable(close)) OVER w - 1) AS change
    FROM
    (
        SELECT
            toStartOfInterval(b.open_time, @whole_bars) AS "Time",
            b.symbol AS series,
            argMax(b.close, b.open_time) AS "close"
        FROM stored_bars AS b FINAL
        WHERE b.market = ${market:singlequote} AND b.symbol IN (${y:singlequote}, ${x:singlequote}) AND b.timeframe = ${bars:singlequote}
            AND $__timeFilter_ms(b.open_time)
        GROUP BY "Time", series
        ORDER BY "Time"
    )
    WINDOW w AS (PARTITION BY series ORDER BY "Time" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE change IS NOT NULL
GROUP BY "Time"
HAVING count() = 2

-- @adf_reading: what the p-value @p_value of the Dickey-Fuller test says, in words; @advice follows a bad one
multiIf(@p_value IS NULL, 'not known yet', @p_value < 0.01, 'stationary at 1 %', @p_value < @significant, 'stationary at 5 %', @p_value < 0.1, 'weak: at 10 % only', 'not stationary@advice')

-- @timeframe_ms: length of the column `timeframe`, ms
if(timeframe = 'tick', 100, toInt64OrZero(extract(timeframe, '^[0-9]+')) * transform(extract(timeframe, '[a-z]+$'), ['s', 'm', 'h', 'd'], [1000, 60000, 3600000, 86400000], 1000))

-- @order_of_last_run: place of a pair in the settings of the last run, so that its first pair is shown first
min(if(has((SELECT argMax(pairs, started) FROM runs WHERE market = ${market:singlequote}), pair), indexOf((SELECT argMax(pairs, started) FROM runs WHERE market = ${market:singlequote}), pair), 1000000))
