-- Views that make common questions one line. Applied like 001_tables.sql.
--
-- Market time is the time of the newest rows, not the wall clock, so that these answer alike for live prices and for a
-- replay of last year.

-- The newest row of each pair, kept by ClickHouse itself as rows come in: asking it of stored_pair_metrics would read
-- every pair's whole history. It holds one row a pair, timeframe, window and method, the one with the latest time.
-- One partition: rows of a pair come to lie in one part whatever their day.
CREATE TABLE IF NOT EXISTS stored_latest_pair_metrics AS stored_pair_metrics
ENGINE = ReplacingMergeTree(time)
PARTITION BY tuple()
ORDER BY (market, pair, timeframe, window, method)
COMMENT 'Newest statistics of each pair; read the view latest_pair_metrics';

CREATE MATERIALIZED VIEW IF NOT EXISTS fill_latest_pair_metrics TO stored_latest_pair_metrics
AS SELECT * FROM stored_pair_metrics
-- Of an insert's rows only the newest of each series, in its newest version: the others need not be written.
ORDER BY time DESC, version DESC LIMIT 1 BY market, pair, timeframe, window, method;

-- Rows that were there before this view.
INSERT INTO stored_latest_pair_metrics SELECT * FROM stored_pair_metrics;

CREATE OR REPLACE VIEW latest_pair_metrics AS
SELECT *, dateDiff('second', time, max(time) OVER (PARTITION BY market, timeframe)) AS behind_seconds
FROM stored_latest_pair_metrics FINAL
COMMENT 'Newest statistics of each pair; behind_seconds: how much older they are than the newest of their timeframe';

CREATE OR REPLACE VIEW pair_ranking AS
SELECT market, timeframe, window, method,
    row_number() OVER (PARTITION BY market, timeframe, window, method ORDER BY isFinite(z_score) DESC, abs(z_score) DESC, pair) AS rank,
    pair, time, z_score, spread, hedge_ratio, correlation, return_correlation, adf_statistic, adf_p_value,
    adf_p_value < 0.05 AS stationary, half_life, r_squared, hurst
FROM latest_pair_metrics
WHERE behind_seconds <= 60
COMMENT 'Pairs by how unusual their spread is now: rank 1 has the largest |z_score|; stationary: ADF rejects a unit root at 5 %';

CREATE OR REPLACE VIEW bar_returns AS
SELECT *,
    lagInFrame(toNullable(close)) OVER w AS previous_close,
    close / previous_close - 1 AS return,
    log(close / previous_close) AS log_return
FROM bars
WINDOW w AS (PARTITION BY market, symbol, timeframe ORDER BY open_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
COMMENT 'Bars with their returns over the bar before, NULL for the first; name symbol and timeframe, or all history is read';

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
    -- Not bar_returns: a condition on time does not pass through its window, so the whole history would be read.
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
