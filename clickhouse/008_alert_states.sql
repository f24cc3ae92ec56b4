-- What each alert rule comes to. Applied like 001_tables.sql.
--
-- Whether a rule holds now, the newest row of each pair says. Whether it has held for long, only history can say, which
-- is read for those pairs alone where a rule with a duration holds now.

CREATE OR REPLACE VIEW rule_values AS
SELECT *,
    multiIf(condition = '>', value > threshold, condition = '>=', value >= threshold,
        condition = '<', value < threshold, condition = '<=', value <= threshold,
        condition = 'abs >', abs(value) > threshold, condition = 'abs >=', abs(value) >= threshold,
        condition = 'abs <', abs(value) < threshold, abs(value) <= threshold) AS held
FROM
(
    SELECT r.id AS rule, r.name AS name, m.market AS market, m.pair AS pair, m.timeframe AS timeframe, m.window AS window,
        m.method AS method, r.metric AS metric, toString(r.condition) AS condition, r.threshold AS threshold,
        r.for_seconds AS for_seconds, m.time AS time,
        [m.price_y, m.price_x, m.hedge_ratio, m.intercept, m.hedge_ratio_stderr, m.intercept_stderr, m.r_squared,
         m.spread, m.spread_mean, m.spread_std, m.z_score, m.correlation, m.return_correlation, m.volatility_y,
         m.volatility_x, m.adf_statistic, m.adf_p_value, m.adf_lag, m.half_life, m.hurst, m.variance_ratio][indexOf(
            ['price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared',
             'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y',
             'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio'], r.metric)] AS value
    FROM alert_rules AS r
    CROSS JOIN latest_pair_metrics AS m
    WHERE r.enabled AND m.behind_seconds <= 60
        AND (r.pair = '' OR r.pair = m.pair)
        AND (r.timeframe = '' OR r.timeframe = m.timeframe)
        AND (r.window = 0 OR r.window = m.window)
        AND (r.method = '' OR r.method = m.method)
)
COMMENT 'Every enabled alert rule on every pair it fits: its value now, and held = 1 where its condition is met';

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
