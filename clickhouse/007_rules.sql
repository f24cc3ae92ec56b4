-- Alert rules watch any statistic, and come from users or from the flow's settings. Applied like 001_tables.sql.

ALTER TABLE alert_rules
    ADD COLUMN IF NOT EXISTS origin LowCardinality(String) DEFAULT 'user'
    COMMENT 'user, or settings: kept as PAIRFLOW_ALERT_RULES has it, and gone when it is gone from there';

ALTER TABLE alert_rules DROP CONSTRAINT IF EXISTS known_metric;

ALTER TABLE alert_rules ADD CONSTRAINT IF NOT EXISTS known_metric CHECK metric IN
    ('price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared',
     'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y',
     'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio');

CREATE OR REPLACE VIEW alert_states AS
WITH rule_values AS
(
    SELECT r.id AS rule, r.name AS name, r.metric AS metric, toString(r.condition) AS condition, r.threshold AS threshold,
        r.for_seconds AS for_seconds, m.market AS market, m.pair AS pair, m.timeframe AS timeframe, m.window AS window,
        m.method AS method, m.time AS time,
        [m.price_y, m.price_x, m.hedge_ratio, m.intercept, m.hedge_ratio_stderr, m.intercept_stderr, m.r_squared,
         m.spread, m.spread_mean, m.spread_std, m.z_score, m.correlation, m.return_correlation, m.volatility_y,
         m.volatility_x, m.adf_statistic, m.adf_p_value, m.adf_lag, m.half_life, m.hurst, m.variance_ratio][indexOf(
            ['price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared',
             'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y',
             'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio'], r.metric)] AS value
    FROM alert_rules AS r
    CROSS JOIN
    (
        SELECT * FROM pair_metrics
        WHERE (SELECT count() FROM alert_rules WHERE enabled AND for_seconds > 0) > 0
            AND time >= (SELECT max(time) FROM stored_latest_pair_metrics)
                - toIntervalSecond((SELECT max(for_seconds) FROM alert_rules WHERE enabled))
        UNION ALL
        SELECT * EXCEPT behind_seconds FROM latest_pair_metrics WHERE behind_seconds <= 60
    ) AS m
    WHERE r.enabled
        AND (r.pair = '' OR r.pair = m.pair)
        AND (r.timeframe = '' OR r.timeframe = m.timeframe)
        AND (r.window = 0 OR r.window = m.window)
        AND (r.method = '' OR r.method = m.method)
),
judged AS
(
    SELECT *,
        multiIf(condition = '>', value > threshold, condition = '>=', value >= threshold,
            condition = '<', value < threshold, condition = '<=', value <= threshold,
            condition = 'abs >', abs(value) > threshold, condition = 'abs >=', abs(value) >= threshold,
            condition = 'abs <', abs(value) < threshold, abs(value) <= threshold) AS held,
        max(time) OVER (PARTITION BY rule, market, pair, timeframe, window, method) AS newest
    FROM rule_values
)
SELECT j.rule AS rule,
    if(any(j.name) != '', any(j.name), concat(any(j.metric), ' ', any(j.condition), ' ', toString(any(j.threshold)))) AS name,
    j.market AS market, j.pair AS pair, j.timeframe AS timeframe, j.window AS window, j.method AS method,
    any(j.metric) AS metric, any(j.condition) AS condition, any(j.threshold) AS threshold,
    max(j.time) AS time,
    argMax(j.value, j.time) AS value,
    min(j.held) AS firing
FROM judged AS j
WHERE j.time >= j.newest - toIntervalSecond(j.for_seconds)
GROUP BY rule, market, pair, timeframe, window, method
COMMENT 'Every enabled alert rule on every pair it fits: its value now, and firing = 1 where the condition held for_seconds long';
