-- Statistics of pairs at less work, in stores made before their tables were defined so. Applied like 001_tables.sql.
-- Rows that are there keep their codecs until they are merged.

ALTER TABLE stored_pair_metrics
    MODIFY COLUMN window CODEC(T64, LZ4),
    MODIFY COLUMN time CODEC(DoubleDelta, LZ4),
    MODIFY COLUMN hedge_ratio CODEC(LZ4),
    MODIFY COLUMN intercept CODEC(LZ4),
    MODIFY COLUMN spread CODEC(LZ4),
    MODIFY COLUMN z_score CODEC(LZ4),
    MODIFY COLUMN correlation CODEC(LZ4),
    MODIFY COLUMN return_correlation CODEC(LZ4),
    MODIFY COLUMN adf_statistic CODEC(LZ4),
    MODIFY COLUMN adf_p_value CODEC(LZ4),
    MODIFY COLUMN half_life CODEC(LZ4),
    MODIFY COLUMN observations CODEC(T64, LZ4),
    MODIFY COLUMN price_y CODEC(Delta, LZ4),
    MODIFY COLUMN price_x CODEC(Delta, LZ4),
    MODIFY COLUMN hedge_ratio_stderr CODEC(LZ4),
    MODIFY COLUMN intercept_stderr CODEC(LZ4),
    MODIFY COLUMN r_squared CODEC(LZ4),
    MODIFY COLUMN spread_mean CODEC(LZ4),
    MODIFY COLUMN spread_std CODEC(LZ4),
    MODIFY COLUMN volatility_y CODEC(LZ4),
    MODIFY COLUMN volatility_x CODEC(LZ4),
    MODIFY COLUMN adf_lag CODEC(LZ4),
    MODIFY COLUMN hurst CODEC(LZ4),
    MODIFY COLUMN variance_ratio CODEC(LZ4),
    MODIFY COLUMN version CODEC(T64, LZ4);

ALTER TABLE fill_latest_pair_metrics MODIFY QUERY
SELECT * FROM stored_pair_metrics
ORDER BY time DESC, version DESC LIMIT 1 BY market, pair, timeframe, window, method;
