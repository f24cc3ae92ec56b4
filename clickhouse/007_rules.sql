-- Alert rules watch any statistic, and come from users or from the flow's settings. Applied like 001_tables.sql.

ALTER TABLE alert_rules
    ADD COLUMN IF NOT EXISTS origin LowCardinality(String) DEFAULT 'user'
    COMMENT 'user, or settings: kept as PAIRFLOW_ALERT_RULES has it, and gone when it is gone from there';

ALTER TABLE alert_rules DROP CONSTRAINT IF EXISTS known_metric;

ALTER TABLE alert_rules ADD CONSTRAINT IF NOT EXISTS known_metric CHECK metric IN
    ('price_y', 'price_x', 'hedge_ratio', 'intercept', 'hedge_ratio_stderr', 'intercept_stderr', 'r_squared',
     'spread', 'spread_mean', 'spread_std', 'z_score', 'correlation', 'return_correlation', 'volatility_y',
     'volatility_x', 'adf_statistic', 'adf_p_value', 'adf_lag', 'half_life', 'hurst', 'variance_ratio');
