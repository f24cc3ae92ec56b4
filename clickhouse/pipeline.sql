-- Metrics of the pipeline itself: the samples that Prometheus can scrape, so that the Pipeline dashboard needs no
-- Prometheus. There are about 50 rows every 5 s, and whole parts are dropped after 30 days.

CREATE TABLE IF NOT EXISTS pipeline_metrics
(
    time DateTime64(3, 'UTC') COMMENT 'when the sample was taken, by the local clock' CODEC(DoubleDelta, ZSTD(1)),
    name LowCardinality(String) COMMENT 'name of the metric as in Prometheus: pairflow_trades_total',
    labels Map(LowCardinality(String), LowCardinality(String)) COMMENT 'labels of the sample: {''table'': ''bars''}',
    value Float64 COMMENT 'value of the sample' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (name, time)
TTL toDateTime(time) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Samples of the pipeline''s own metrics';
