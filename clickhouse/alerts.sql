-- Alerts: the rules of users, the pairs that the provisioned rules of Grafana watch (grafana/provisioning/alerting), and
-- what both find.

-- connectors/clickhouse/alert_rules.py describes a rule; a test holds columns, defaults and checks equal to it.
CREATE TABLE IF NOT EXISTS alert_rules
(
    id UUID DEFAULT generateUUIDv4() COMMENT 'identifies the rule in alerts',
    created DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') COMMENT 'when the rule was written, by the local clock',
    name String DEFAULT '' COMMENT 'name of the alert; empty: made from the rule',
    pair String DEFAULT '' COMMENT 'Y/X; empty: every pair',
    timeframe String DEFAULT '' COMMENT 'tick, 1s, 1m, 5m; empty: every timeframe',
    window UInt32 DEFAULT 0 COMMENT 'observations in the rolling window; 0: every window',
    method String DEFAULT '' COMMENT 'estimator of the hedge ratio; empty: every method',
    metric String DEFAULT 'z_score' COMMENT 'a statistic: a column of pair_metrics that is no key',
    condition Enum8('>' = 1, '>=' = 2, '<' = 3, '<=' = 4, 'abs >' = 5, 'abs >=' = 6, 'abs <' = 7, 'abs <=' = 8)
        DEFAULT 'abs >' COMMENT 'how the metric (with abs: its magnitude) is compared with the threshold',
    threshold Float64 DEFAULT 2 COMMENT 'threshold in units of the metric',
    for_seconds UInt32 DEFAULT 0 COMMENT 'seconds of market time for which the condition has to hold before the rule fires; 0: at once',
    enabled Bool DEFAULT true COMMENT 'false: the rule is kept but not judged',
    note String DEFAULT '' COMMENT 'anything worth keeping with the rule',
    origin LowCardinality(String) DEFAULT 'user' COMMENT 'user; or settings: the rule is one of PAIRFLOW_ALERT_RULES and is deleted when it is no longer there',
    CONSTRAINT known_metric CHECK metric IN ('price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr',
        'intercept_stderr', 'r_squared', 'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation',
        'return_correlation', 'volatility_y', 'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst',
        'variance_ratio'),
    CONSTRAINT at_most_an_hour CHECK for_seconds <= 3600
)
ENGINE = MergeTree
ORDER BY (created, id)
COMMENT 'Alert rules, written by users: INSERT INTO alert_rules (pair, threshold) VALUES (''ETHUSDT/BTCUSDT'', 2.5)';

-- An alert is about a pair and not about each of its timeframes, windows and methods, as an alert that changes within
-- seconds is ignored. So each pair is watched at the one where a person would look first. Rules in alert_rules can watch
-- any other.
CREATE OR REPLACE VIEW watched_pairs AS
SELECT * EXCEPT behind_seconds
FROM latest_pair_metrics
-- The last row of a pair that is no longer watched stays in the table.
WHERE time > (SELECT max(time) FROM stored_latest_pair_metrics) - INTERVAL 1 HOUR
-- In this order: a full window before one that still fills; bars of a minute, or else the longest that are shorter, or
-- else the shortest that are longer; the shortest window; OLS before other estimators.
ORDER BY
    observations < window,
    multiIf(timeframe = 'tick', 4, timeframe = '1m', 0, endsWith(timeframe, 's'), 1, endsWith(timeframe, 'm'), 2, 3),
    toUInt32OrZero(extract(timeframe, '\\d+')) * if(endsWith(timeframe, 's'), -1, 1),
    window,
    method != 'ols',
    method
LIMIT 1 BY market, pair
COMMENT 'Newest statistics of each pair at the one timeframe, window and method that alerts watch';

CREATE OR REPLACE VIEW pair_positions AS
SELECT w.market AS market, w.pair AS pair, w.timeframe AS timeframe, w.window AS window, w.method AS method,
    any(w.z_score) AS z_score,
    argMax(s.signal, s.time) AS last_signal,
    argMaxIf(s.signal, s.time, s.signal IN ('short', 'long')) AS last_entry,
    maxIf(s.time, s.signal IN ('short', 'long')) AS entered,
    -- Grafana asks every 10 s. A position that begins and ends in between is held for 25 s, so that Grafana sees it.
    -- (Positions of bars of more than 10 s last at least as long as a bar.)
    last_signal IN ('short', 'long') OR entered > now64(6) - INTERVAL 25 SECOND AS held,
    multiIf(NOT held, 0, last_entry = 'short', -1, 1) AS position
FROM watched_pairs AS w
LEFT JOIN
(
    SELECT market, pair, timeframe, window, method, time, signal FROM stored_latest_signals FINAL
) AS s USING (market, pair, timeframe, window, method)
GROUP BY market, pair, timeframe, window, method
COMMENT 'Position of each watched pair by its signals: -1 is short of the spread, 1 long, 0 flat';

ALTER TABLE pair_positions
    COMMENT COLUMN last_signal 'last signal of the pair: short, long or exit',
    COMMENT COLUMN last_entry 'last entry of the pair: short or long',
    COMMENT COLUMN entered 'time of the last entry',
    COMMENT COLUMN held '1 while the spread is held, and for 25 s after it was entered',
    COMMENT COLUMN position '-1: short of the spread, 1: long, 0: flat';

-- The newest row of each series says whether a rule's condition holds now. Whether it has held for a duration, only
-- history says, which is read only for the series where a rule with a duration holds now.
CREATE OR REPLACE VIEW alert_states AS
WITH
    -- Statistics of a row, wherever the row is read from, and their names in the same order.
    () -> [price_y, price_x, hedge_ratio, intercept, hedge_ratio_stderr, intercept_stderr, r_squared, spread, spread_mean,
        spread_std, z_score, correlation, return_correlation, volatility_y, volatility_x, adf_statistic, adf_p_value, adf_lag,
        half_life, hurst, variance_ratio] AS statistics_of_row,
    ['price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared', 'spread',
        'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y', 'volatility_x',
        'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio'] AS metrics,
    -- A statistic that is not defined is NaN, which no condition holds for.
    (value, condition, threshold) -> multiIf(
        condition = '>', value > threshold, condition = '>=', value >= threshold,
        condition = '<', value < threshold, condition = '<=', value <= threshold,
        condition = 'abs >', abs(value) > threshold, condition = 'abs >=', abs(value) >= threshold,
        condition = 'abs <', abs(value) < threshold, abs(value) <= threshold) AS holds,
    now_values AS
    (
        SELECT r.id AS rule, r.name AS name, m.market AS market, m.pair AS pair, m.timeframe AS timeframe,
            m.window AS window, m.method AS method, r.metric AS metric, r.condition AS condition, r.threshold AS threshold,
            r.for_seconds AS for_seconds, m.time AS time,
            m.statistics[indexOf(metrics, r.metric)] AS value,
            holds(value, r.condition, r.threshold) AS held
        FROM alert_rules AS r
        CROSS JOIN
        (
            SELECT market, pair, timeframe, window, method, time, statistics_of_row() AS statistics
            FROM latest_pair_metrics
            WHERE behind_seconds <= 60
        ) AS m
        WHERE r.enabled
            AND (r.pair = '' OR r.pair = m.pair)
            AND (r.timeframe = '' OR r.timeframe = m.timeframe)
            AND (r.window = 0 OR r.window = m.window)
            AND (r.method = '' OR r.method = m.method)
    ),
    -- Series where a rule with a duration holds now, and the earliest time since which one has to hold.
    (
        SELECT (groupUniqArray((market, pair, timeframe, window, method)), min(time - toIntervalSecond(for_seconds)))
        FROM now_values
        WHERE held AND for_seconds > 0
    ) AS waiting
SELECT v.rule AS rule,
    if(v.name != '', v.name, concat(v.metric, ' ', v.condition, ' ', toString(v.threshold))) AS name,
    v.market AS market, v.pair AS pair, v.timeframe AS timeframe, v.window AS window, v.method AS method,
    v.metric AS metric, toString(v.condition) AS condition, v.threshold AS threshold, v.time AS time, v.value AS value,
    v.held AND broken.last < v.time - toIntervalSecond(v.for_seconds) AS firing
FROM now_values AS v
LEFT JOIN
(
    SELECT r.id AS rule, m.market AS market, m.pair AS pair, m.timeframe AS timeframe, m.window AS window,
        m.method AS method, max(m.time) AS last
    FROM alert_rules AS r
    CROSS JOIN
    (
        SELECT market, pair, timeframe, window, method, time, statistics_of_row() AS statistics
        FROM pair_metrics
        WHERE (market, pair, timeframe, window, method) IN (waiting.1) AND time >= waiting.2
    ) AS m
    WHERE r.enabled AND r.for_seconds > 0
        AND NOT holds(m.statistics[indexOf(metrics, r.metric)], r.condition, r.threshold)
    GROUP BY rule, market, pair, timeframe, window, method
) AS broken USING (rule, market, pair, timeframe, window, method)
COMMENT 'Each enabled alert rule on each series that it fits: the newest value, and firing = 1 if the condition has held for_seconds';

ALTER TABLE alert_states
    COMMENT COLUMN rule 'id of the rule',
    COMMENT COLUMN value 'newest value of the metric',
    COMMENT COLUMN firing '1 if the condition holds and has held for the rule''s duration';

-- Stores of earlier programs have this view, which nothing reads any more.
DROP VIEW IF EXISTS rule_values;
