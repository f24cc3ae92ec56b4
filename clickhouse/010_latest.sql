-- What stands now, read from as many rows as there are pairs, however long the history. Applied like 001_tables.sql.
-- Replaces views of earlier files.

-- The newest entry and the newest exit of each pair, kept by ClickHouse itself as signals come in.
CREATE TABLE IF NOT EXISTS stored_latest_signals AS stored_signals
ENGINE = ReplacingMergeTree(time)
PARTITION BY tuple()
ORDER BY (market, pair, timeframe, window, method, signal = 'exit')
COMMENT 'Newest entry and newest exit of each pair; read the view latest_signals';

CREATE MATERIALIZED VIEW IF NOT EXISTS fill_latest_signals TO stored_latest_signals
AS SELECT * FROM stored_signals;

-- Rows that were there before this view.
INSERT INTO stored_latest_signals SELECT * FROM stored_signals;

CREATE OR REPLACE VIEW latest_signals AS
SELECT * FROM stored_latest_signals FINAL
ORDER BY time DESC
LIMIT 1 BY market, pair, timeframe, window, method
COMMENT 'State of each pair: its last signal, and since when';

CREATE OR REPLACE VIEW pair_positions AS
SELECT w.market AS market, w.pair AS pair, w.timeframe AS timeframe, w.window AS window, w.method AS method,
    any(w.z_score) AS z_score,
    argMax(s.signal, s.time) AS last_signal,
    argMaxIf(s.signal, s.time, s.signal IN ('short', 'long')) AS last_entry,
    maxIf(s.time, s.signal IN ('short', 'long')) AS entered,
    -- Grafana looks every 10 s: a position that came and went in between is held so long that it is seen. (Bars of more
    -- than 10 s need that not: their positions last as long as a bar.)
    last_signal IN ('short', 'long') OR entered > now64(6) - INTERVAL 25 SECOND AS held,
    multiIf(NOT held, 0, last_entry = 'short', -1, 1) AS position
FROM watched_pairs AS w
LEFT JOIN
(
    SELECT market, pair, timeframe, window, method, time, signal FROM stored_latest_signals FINAL
) AS s USING (market, pair, timeframe, window, method)
GROUP BY market, pair, timeframe, window, method
COMMENT 'Where the signals of each watched pair stand: position -1 is short of the spread, 1 long, 0 flat';

CREATE OR REPLACE VIEW rule_values AS
WITH
    ['price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared', 'spread',
     'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y', 'volatility_x',
     'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio'] AS metrics
SELECT r.id AS rule, r.name AS name, m.market AS market, m.pair AS pair, m.timeframe AS timeframe, m.window AS window,
    m.method AS method, r.metric AS metric, toString(r.condition) AS condition, r.threshold AS threshold,
    r.for_seconds AS for_seconds, m.time AS time,
    m.statistics[indexOf(metrics, r.metric)] AS value,
    multiIf(condition = '>', value > threshold, condition = '>=', value >= threshold,
        condition = '<', value < threshold, condition = '<=', value <= threshold,
        condition = 'abs >', abs(value) > threshold, condition = 'abs >=', abs(value) >= threshold,
        condition = 'abs <', abs(value) < threshold, abs(value) <= threshold) AS held
FROM alert_rules AS r
CROSS JOIN
(
    SELECT market, pair, timeframe, window, method, time,
        [price_y, price_x, hedge_ratio, intercept, hedge_ratio_stderr, intercept_stderr, r_squared, spread,
         spread_mean, spread_std, z_score, correlation, return_correlation, volatility_y, volatility_x,
         adf_statistic, adf_p_value, adf_lag, half_life, hurst, variance_ratio] AS statistics
    FROM latest_pair_metrics
    WHERE behind_seconds <= 60
) AS m
WHERE r.enabled
    AND (r.pair = '' OR r.pair = m.pair)
    AND (r.timeframe = '' OR r.timeframe = m.timeframe)
    AND (r.window = 0 OR r.window = m.window)
    AND (r.method = '' OR r.method = m.method)
COMMENT 'Every enabled alert rule on every pair it fits: its value now, and held = 1 where its condition is met';

-- Whether a rule holds now, the newest row of each pair says. Whether it has held for long, only history can say, which
-- is read for those pairs alone where a rule with a duration holds now.
CREATE OR REPLACE VIEW alert_states AS
WITH
    (
        SELECT (groupUniqArray((market, pair, timeframe, window, method)), min(time - toIntervalSecond(for_seconds)))
        FROM rule_values
        WHERE held AND for_seconds > 0
    ) AS waiting
SELECT v.rule AS rule,
    if(v.name != '', v.name, concat(v.metric, ' ', v.condition, ' ', toString(v.threshold))) AS name,
    v.market AS market, v.pair AS pair, v.timeframe AS timeframe, v.window AS window, v.method AS method,
    v.metric AS metric, v.condition AS condition, v.threshold AS threshold, v.time AS time, v.value AS value,
    v.held AND broken.last < v.time - toIntervalSecond(v.for_seconds) AS firing
FROM rule_values AS v
LEFT JOIN
(
    SELECT rule, market, pair, timeframe, window, method, max(time) AS last
    FROM
    (
        SELECT r.id AS rule, m.market AS market, m.pair AS pair, m.timeframe AS timeframe, m.window AS window,
            m.method AS method, m.time AS time, toString(r.condition) AS condition, r.threshold AS threshold,
            [m.price_y, m.price_x, m.hedge_ratio, m.intercept, m.hedge_ratio_stderr, m.intercept_stderr, m.r_squared,
             m.spread, m.spread_mean, m.spread_std, m.z_score, m.correlation, m.return_correlation, m.volatility_y,
             m.volatility_x, m.adf_statistic, m.adf_p_value, m.adf_lag, m.half_life, m.hurst, m.variance_ratio][indexOf(
                ['price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared',
                 'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y',
                 'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio'], r.metric)] AS value
        FROM alert_rules AS r
        CROSS JOIN pair_metrics AS m
        WHERE (m.market, m.pair, m.timeframe, m.window, m.method) IN (waiting.1) AND m.time >= waiting.2
            AND r.enabled AND r.for_seconds > 0
    )
    WHERE NOT multiIf(condition = '>', value > threshold, condition = '>=', value >= threshold,
            condition = '<', value < threshold, condition = '<=', value <= threshold,
            condition = 'abs >', abs(value) > threshold, condition = 'abs >=', abs(value) >= threshold,
            condition = 'abs <', abs(value) < threshold, abs(value) <= threshold)
    GROUP BY rule, market, pair, timeframe, window, method
) AS broken USING (rule, market, pair, timeframe, window, method)
COMMENT 'Every enabled alert rule on every pair it fits: its value now, and firing = 1 where the condition held for_seconds long';
