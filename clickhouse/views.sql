-- Views that users, Grafana and the REST routes ask.
--
-- Each of the first five shows a stored_* table with every row exactly once, in its highest version. Conditions on key
-- columns reach the index of the table through the view, and FINAL merges only rows whose key ranges overlap.
-- do_not_merge_across_partitions_select_final: rows with the same key are never in two partitions (see tables.sql).
--
-- The others answer common questions in one line. Market time is the time of the newest rows, not the clock of this
-- machine, so that they answer the same for live prices and for a replay.
--
-- A view's column has the comment of the column of the same name from which it is read; ALTER TABLE gives the others
-- theirs.

CREATE OR REPLACE VIEW trades AS
SELECT market, symbol, id, time, price, quantity, buyer_is_maker, first_id, last_id, in_bars, source
FROM stored_trades FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Trades, each once';

CREATE OR REPLACE VIEW bars AS
SELECT market, symbol, timeframe, open_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_id, last_id, close_time, version, provisional, source
FROM stored_bars FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'OHLCV bars, each once, in its newest version';

CREATE OR REPLACE VIEW pair_metrics AS
SELECT market, pair, timeframe, window, method, time, hedge_ratio, intercept, spread, z_score, correlation,
    return_correlation, adf_statistic, adf_p_value, half_life, y, x, observations, price_y, price_x, hedge_ratio_stderr,
    intercept_stderr, r_squared, spread_mean, spread_std, volatility_y, volatility_x, adf_lag, hurst, variance_ratio,
    version, source
FROM stored_pair_metrics FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Statistics of pairs at every bar, each once, in its newest version; time joins bars.open_time';

CREATE OR REPLACE VIEW signals AS
SELECT market, pair, timeframe, window, method, time, signal, z_score, hedge_ratio, spread, price_y, price_x, y, x,
    version, source
FROM stored_signals FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Changes of the signal of the spread: short, long, exit';

CREATE OR REPLACE VIEW gaps AS
SELECT market, symbol, first_id, last_id, last_id - first_id + 1 AS missing, detected, repaired, restored, cause, repair,
    version, source
FROM stored_gaps FINAL
COMMENT 'Ranges of ids that did not arrive from the stream, and how each gap ended';

ALTER TABLE gaps
    COMMENT COLUMN missing 'number of ids that did not arrive from the stream';

CREATE OR REPLACE VIEW pair_ranking AS
SELECT market, timeframe, window, method,
    row_number() OVER (PARTITION BY market, timeframe, window, method ORDER BY isFinite(z_score) DESC, abs(z_score) DESC, pair) AS rank,
    pair, time, z_score, spread, hedge_ratio, correlation, return_correlation, adf_statistic, adf_p_value,
    adf_p_value < 0.05 AS stationary, half_life, r_squared, hurst
FROM latest_pair_metrics
WHERE behind_seconds <= 60
COMMENT 'Pairs by how unusual their spread is now: rank 1 has the largest |z_score|; stationary: ADF rejects a unit root at 5 %';

ALTER TABLE pair_ranking
    COMMENT COLUMN rank '1 for the largest magnitude of z_score among the pairs of its market, timeframe, window and method',
    COMMENT COLUMN stationary '1 if adf_p_value is below 0.05: the test rejects a unit root of the spread at 5 %';

CREATE OR REPLACE VIEW bar_returns AS
SELECT *,
    lagInFrame(toNullable(close)) OVER w AS previous_close,
    close / previous_close - 1 AS return,
    log(close / previous_close) AS log_return
FROM bars
WINDOW w AS (PARTITION BY market, symbol, timeframe ORDER BY open_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
COMMENT 'Bars with their returns over the previous bar, NULL for the first; without conditions on symbol and timeframe all history is read';

ALTER TABLE bar_returns
    COMMENT COLUMN previous_close 'close of the bar before; NULL for the first',
    COMMENT COLUMN return 'close / previous_close - 1',
    COMMENT COLUMN log_return 'logarithm of close / previous_close';

CREATE OR REPLACE VIEW symbol_statistics AS
SELECT market, symbol, timeframe,
    count() AS bars,
    min(open_time) AS first_bar,
    max(open_time) AS last_bar,
    argMax(close, open_time) AS last_price,
    last_price - argMin(open, open_time) AS price_change,
    100 * price_change / argMin(open, open_time) AS price_change_percent,
    max(high) AS highest,
    min(low) AS lowest,
    sum(volume) AS base_volume,
    sum(quote_volume) AS total_quote_volume,
    total_quote_volume / nullIf(base_volume, 0) AS vwap,
    sum(trades) AS trade_count,
    sum(taker_buy_volume) / nullIf(base_volume, 0) AS taker_buy_share,
    avg(log_return) AS mean_log_return,
    stddevSamp(log_return) AS volatility,
    skewPop(log_return) AS skewness,
    kurtPop(log_return) - 3 AS excess_kurtosis,
    min(return) AS worst_return,
    max(return) AS best_return
FROM
(
    -- Not bar_returns: a condition on time is not applied below its window function, so the whole history would be read.
    SELECT *,
        lagInFrame(toNullable(close)) OVER w AS previous_close,
        close / previous_close - 1 AS return,
        log(close / previous_close) AS log_return
    FROM bars
    WHERE open_time > (SELECT max(open_time) FROM stored_bars) - INTERVAL 1 DAY
    WINDOW w AS (PARTITION BY market, symbol, timeframe ORDER BY open_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
GROUP BY market, symbol, timeframe
COMMENT 'Each symbol over the last 24 hours of market time; volatility: standard deviation of log returns, per bar';

ALTER TABLE symbol_statistics
    COMMENT COLUMN bars 'number of bars',
    COMMENT COLUMN first_bar 'open time of the first bar',
    COMMENT COLUMN last_bar 'open time of the last bar',
    COMMENT COLUMN last_price 'close of the last bar',
    COMMENT COLUMN price_change 'last_price minus the open of the first bar',
    COMMENT COLUMN price_change_percent 'price_change in percent of the open of the first bar',
    COMMENT COLUMN highest 'highest price',
    COMMENT COLUMN lowest 'lowest price',
    COMMENT COLUMN base_volume 'traded quantity of the base asset',
    COMMENT COLUMN total_quote_volume 'traded amount of the quote asset',
    COMMENT COLUMN vwap 'average price weighted by volume; NULL without volume',
    COMMENT COLUMN trade_count 'number of trades',
    COMMENT COLUMN taker_buy_share 'share of base_volume in which the taker bought; NULL without volume',
    COMMENT COLUMN mean_log_return 'mean of log returns, per bar',
    COMMENT COLUMN volatility 'sample standard deviation of log returns, per bar',
    COMMENT COLUMN skewness 'skewness of log returns',
    COMMENT COLUMN excess_kurtosis 'kurtosis of log returns minus 3',
    COMMENT COLUMN worst_return 'lowest return of a bar',
    COMMENT COLUMN best_return 'highest return of a bar';

CREATE OR REPLACE VIEW daily_statistics AS
SELECT market, symbol, timeframe, toDate(open_time) AS day,
    count() AS bars,
    argMin(open, open_time) AS first_price,
    max(high) AS highest,
    min(low) AS lowest,
    argMax(close, open_time) AS last_price,
    sum(volume) AS base_volume,
    sum(quote_volume) AS total_quote_volume,
    sum(trades) AS trade_count,
    stddevSamp(log_return) AS volatility,
    sqrt(sum(log_return * log_return)) AS realised_volatility
FROM bar_returns
GROUP BY market, symbol, timeframe, day
COMMENT 'Each symbol by day (UTC); realised_volatility: square root of the sum of squared log returns of the day';

ALTER TABLE daily_statistics
    COMMENT COLUMN day 'day, UTC',
    COMMENT COLUMN bars 'number of bars',
    COMMENT COLUMN first_price 'open of the first bar',
    COMMENT COLUMN highest 'highest price',
    COMMENT COLUMN lowest 'lowest price',
    COMMENT COLUMN last_price 'close of the last bar',
    COMMENT COLUMN base_volume 'traded quantity of the base asset',
    COMMENT COLUMN total_quote_volume 'traded amount of the quote asset',
    COMMENT COLUMN trade_count 'number of trades',
    COMMENT COLUMN volatility 'sample standard deviation of log returns, per bar',
    COMMENT COLUMN realised_volatility 'square root of the sum of squared log returns of the day';

CREATE OR REPLACE VIEW data_quality AS
SELECT market, symbol, timeframe, toStartOfHour(open_time) AS hour,
    count() AS bars,
    countIf(trades = 0) AS bars_without_trades,
    countIf(provisional) AS provisional_bars,
    countIf(version > 1) AS revised_bars,
    sum(trades) AS trade_count,
    minIf(first_id, first_id >= 0) AS lowest_id,
    maxIf(last_id, first_id >= 0) AS highest_id,
    if(countIf(first_id >= 0) > 0, highest_id - lowest_id + 1 - toInt64(sumIf(trades, first_id >= 0)), 0) AS missing_ids
FROM bars
GROUP BY market, symbol, timeframe, hour
COMMENT 'Bars by hour: missing_ids are ids between the first and the last trade of the hour that no bar counts';

ALTER TABLE data_quality
    COMMENT COLUMN hour 'start of the hour, UTC',
    COMMENT COLUMN bars 'number of bars',
    COMMENT COLUMN bars_without_trades 'bars that repeat the last close',
    COMMENT COLUMN provisional_bars 'bars of which trades are missing and being fetched',
    COMMENT COLUMN revised_bars 'bars that a late trade changed',
    COMMENT COLUMN trade_count 'number of trades that bars count',
    COMMENT COLUMN lowest_id 'first trade id of the hour',
    COMMENT COLUMN highest_id 'last trade id of the hour',
    COMMENT COLUMN missing_ids 'ids from lowest_id to highest_id that no bar counts';

CREATE OR REPLACE VIEW trade_quality AS
SELECT market, symbol, toStartOfHour(time) AS hour,
    count() AS trades,
    min(id) AS lowest_id,
    max(id) AS highest_id,
    highest_id - lowest_id + 1 - toInt64(trades) AS missing_ids,
    countIf(NOT in_bars) AS left_out_of_bars,
    min(time) AS first_trade,
    max(time) AS last_trade
FROM trades
GROUP BY market, symbol, hour
COMMENT 'Trades by hour: complete where missing_ids = 0';

ALTER TABLE trade_quality
    COMMENT COLUMN hour 'start of the hour, UTC',
    COMMENT COLUMN trades 'number of trades',
    COMMENT COLUMN lowest_id 'first trade id of the hour',
    COMMENT COLUMN highest_id 'last trade id of the hour',
    COMMENT COLUMN missing_ids 'ids from lowest_id to highest_id that are not stored; 0: complete',
    COMMENT COLUMN left_out_of_bars 'trades that the exchange leaves out of its klines',
    COMMENT COLUMN first_trade 'time of the first trade',
    COMMENT COLUMN last_trade 'time of the last trade';
