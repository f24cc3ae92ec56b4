-- The newest row of each series, so that a query for what is new reads as many rows as there are series, however long the
-- history is.
--
-- ClickHouse fills two tables as rows arrive, by materialized views. Rows that were stored before such a view existed
-- are copied first, by the INSERT above it; a store that has the view does not run the INSERT again.
--
-- Market time is the time of the newest rows, not the clock of this machine. So these views answer the same for live
-- prices and for a replay of last year.

-- One row for each pair, timeframe, window and method, the one with the latest time. There is one partition, so that rows
-- of a series meet in one part whatever their day.
CREATE TABLE IF NOT EXISTS stored_latest_pair_metrics AS stored_pair_metrics
ENGINE = ReplacingMergeTree(time)
PARTITION BY tuple()
ORDER BY (market, pair, timeframe, window, method)
COMMENT 'Newest statistics of each pair; read the view latest_pair_metrics';

INSERT INTO stored_latest_pair_metrics SELECT * FROM stored_pair_metrics;

-- Of the rows of an insert only the newest of each series is kept, in its newest version.
CREATE MATERIALIZED VIEW IF NOT EXISTS fill_latest_pair_metrics TO stored_latest_pair_metrics
AS SELECT * FROM stored_pair_metrics
ORDER BY time DESC, version DESC LIMIT 1 BY market, pair, timeframe, window, method;

CREATE OR REPLACE VIEW latest_pair_metrics AS
SELECT *, dateDiff('second', time, max(time) OVER (PARTITION BY market, timeframe)) AS behind_seconds
FROM stored_latest_pair_metrics FINAL
COMMENT 'Newest statistics of each series; behind_seconds: how much older they are than the newest of their timeframe';

ALTER TABLE latest_pair_metrics
    COMMENT COLUMN behind_seconds 'seconds from this row to the newest row of its market and timeframe';

-- The newest entry and the newest exit of each series.
CREATE TABLE IF NOT EXISTS stored_latest_signals AS stored_signals
ENGINE = ReplacingMergeTree(time)
PARTITION BY tuple()
ORDER BY (market, pair, timeframe, window, method, signal = 'exit')
COMMENT 'Newest entry and newest exit of each pair; read the view latest_signals';

INSERT INTO stored_latest_signals SELECT * FROM stored_signals;

CREATE MATERIALIZED VIEW IF NOT EXISTS fill_latest_signals TO stored_latest_signals
AS SELECT * FROM stored_signals;

CREATE OR REPLACE VIEW latest_signals AS
SELECT * FROM stored_latest_signals FINAL
ORDER BY time DESC
LIMIT 1 BY market, pair, timeframe, window, method
COMMENT 'Last signal of each series, and its time';
