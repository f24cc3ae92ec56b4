-- Tables of a pairflow store: what the flow writes. Questions are asked of the views in 002_views.sql.
--
-- Applied by connectors/clickhouse/store.py, statement by statement, inside the store's database (`pairflow` unless the
-- DSN names another). By hand, on a server: clickhouse-client --database pairflow --multiquery < clickhouse/001_tables.sql
--
-- What holds for every stored_* table:
--
-- * The sorting key is the row's natural key, so writing a row twice changes nothing: ReplacingMergeTree keeps one row a
--   key. Merges happen later; until then FINAL does it while reading. The views read with FINAL, hence "ask the views".
-- * Low-cardinality columns come first in the key and time (or id) last: "one symbol, one stretch of time" is one seek.
-- * A partition is a function of columns that never change for a key: rows of one key always meet in one partition, and
--   FINAL works in each partition alone.
-- * No TTL: a store may hold years of archive, and rows older than a TTL would vanish as they arrive. To keep 90 days:
--   ALTER TABLE stored_trades MODIFY TTL toDateTime(time) + INTERVAL 90 DAY SETTINGS ttl_only_drop_parts = 1
-- * `source` says where prices came from. It is not in the key: a trade is the same trade live, recorded or archived.
-- * Codecs are chosen on 35,389 recorded trades of BTCUSDT and ETHUSDT, in bytes a row (all are lossless):
--     ids         DoubleDelta + LZ4 0.01, Delta + ZSTD 0.39, ZSTD 1.02: contiguous ids have no second difference
--     trade time  Delta + ZSTD 0.74, ZSTD 0.75, DoubleDelta + ZSTD 1.03: bursts, then pauses; bars are even, so DoubleDelta
--     price       Delta + ZSTD 0.72, FPC + ZSTD 0.80, ZSTD 1.01, Gorilla + ZSTD 1.05
--     quantity    ZSTD 2.19, FPC + ZSTD 4.62, Gorilla + ZSTD 5.31: the same round lots come again and again
--     flags       T64 + ZSTD 0.05, ZSTD 0.09
--   ZSTD level 1: level 3 saves some 5 % more and costs writing speed. Statistics of pairs, which hardly repeat, have LZ4:
--   105 bytes a row instead of 93, a quarter less work to insert, half as much to merge.
-- * Granules of 1,024 rows and blocks as small, where most questions are about the newest rows of many series: of 45
--   pairs' last minute, a quarter of the time that 8,192 rows take, for a quarter more on disk. Trades are read in long runs.

CREATE TABLE IF NOT EXISTS stored_trades
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbol LowCardinality(String) COMMENT 'as the exchange writes it, BTCUSDT',
    id Int64 COMMENT 'trade id (aggregate trade id on an aggTrade stream), contiguous per market and symbol' CODEC(DoubleDelta, LZ4),
    time DateTime64(6, 'UTC') COMMENT 'time of the trade, by the exchange' CODEC(Delta, ZSTD(1)),
    price Float64 COMMENT 'quote asset per base asset' CODEC(Delta, ZSTD(1)),
    quantity Float64 COMMENT 'base asset' CODEC(ZSTD(1)),
    buyer_is_maker Bool COMMENT 'true: the taker sold' CODEC(T64, ZSTD(1)),
    first_id Int64 COMMENT 'first trade id of an aggregate trade; id itself on a trade stream' CODEC(DoubleDelta, LZ4),
    last_id Int64 COMMENT 'last trade id of an aggregate trade; id itself on a trade stream' CODEC(DoubleDelta, LZ4),
    in_bars Bool COMMENT 'false: uses up an id, but the exchange leaves it out of its klines, and so do the bars' CODEC(T64, ZSTD(1)),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree
-- A day holds tens of millions of trades: days keep merges bounded, and one day can be dropped at once.
PARTITION BY toYYYYMMDD(time)
ORDER BY (market, symbol, id)
COMMENT 'Trades as stored; read the view trades';

CREATE TABLE IF NOT EXISTS stored_bars
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbol LowCardinality(String) COMMENT 'as the exchange writes it, BTCUSDT',
    timeframe LowCardinality(String) COMMENT 'length of the bar: 1s, 1m, 5m',
    open_time DateTime64(6, 'UTC') COMMENT 'the bar covers [open_time, open_time + timeframe)' CODEC(DoubleDelta, ZSTD(1)),
    open Float64 COMMENT 'price of the first trade; the last close where trades = 0' CODEC(Delta, ZSTD(1)),
    high Float64 COMMENT 'highest price' CODEC(Delta, ZSTD(1)),
    low Float64 COMMENT 'lowest price' CODEC(Delta, ZSTD(1)),
    close Float64 COMMENT 'price of the last trade' CODEC(Delta, ZSTD(1)),
    volume Float64 COMMENT 'base asset' CODEC(ZSTD(1)),
    quote_volume Float64 COMMENT 'quote asset: sum of price * quantity' CODEC(ZSTD(1)),
    trades UInt64 COMMENT 'number of trades; 0 in a bar that repeats the last close' CODEC(T64, ZSTD(1)),
    taker_buy_volume Float64 COMMENT 'part of volume where the taker bought' CODEC(ZSTD(1)),
    taker_buy_quote_volume Float64 COMMENT 'part of quote_volume where the taker bought' CODEC(ZSTD(1)),
    first_id Int64 COMMENT 'first trade id in the bar; -1 where there is none or it is not known' CODEC(Delta, ZSTD(1)),
    last_id Int64 COMMENT 'last trade id in the bar; -1 where there is none or it is not known' CODEC(Delta, ZSTD(1)),
    close_time DateTime64(6, 'UTC') COMMENT 'last microsecond of the bar' CODEC(DoubleDelta, ZSTD(1)),
    version UInt64 COMMENT '0: the exchange''s own kline, from before the feed; 1 when first made here, higher each time a late trade changed it' CODEC(T64, ZSTD(1)),
    provisional Bool COMMENT 'ids are missing here and being fetched: a later version will follow' CODEC(T64, ZSTD(1)),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- 86,400 one-second bars a day and symbol: a month of 50 symbols is 130 million rows, a handful of parts.
PARTITION BY toYYYYMM(open_time)
ORDER BY (market, symbol, timeframe, open_time)
SETTINGS index_granularity = 1024, min_compress_block_size = 8192
COMMENT 'OHLCV bars as stored, in every version; read the view bars';

CREATE TABLE IF NOT EXISTS stored_pair_metrics
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    pair LowCardinality(String) COMMENT 'Y/X, ETHUSDT/BTCUSDT: Y is regressed on X',
    timeframe LowCardinality(String) COMMENT 'tick, 1s, 1m, 5m',
    window UInt32 COMMENT 'observations in the rolling window when it is full' CODEC(T64, LZ4),
    method LowCardinality(String) COMMENT 'estimator of the hedge ratio: ols, rls, kalman, tls',
    time DateTime64(6, 'UTC') COMMENT 'open time of the bar that completed the row' CODEC(DoubleDelta, LZ4),
    hedge_ratio Float64 COMMENT 'beta of Y on X (of logarithms when the price scale is log)' CODEC(LZ4),
    intercept Float64 COMMENT 'alpha of Y on X' CODEC(LZ4),
    spread Float64 COMMENT 'y - hedge_ratio * x' CODEC(LZ4),
    z_score Float64 COMMENT '(spread - spread_mean) / spread_std' CODEC(LZ4),
    correlation Float64 COMMENT 'Pearson, of prices (or their logarithms) over the window' CODEC(LZ4),
    return_correlation Float64 COMMENT 'Pearson, of returns over the window' CODEC(LZ4),
    adf_statistic Float64 COMMENT 'augmented Dickey-Fuller t statistic of the spread over the window' CODEC(LZ4),
    adf_p_value Float64 COMMENT 'its MacKinnon p-value' CODEC(LZ4),
    half_life Float64 COMMENT 'of mean reversion, in bars; inf where the spread does not revert' CODEC(LZ4),
    y LowCardinality(String) COMMENT 'symbol of leg Y',
    x LowCardinality(String) COMMENT 'symbol of leg X',
    observations UInt32 COMMENT 'observations in the window now, at most window' CODEC(T64, LZ4),
    price_y Float64 COMMENT 'last price of Y, as traded' CODEC(Delta, LZ4),
    price_x Float64 COMMENT 'last price of X, as traded' CODEC(Delta, LZ4),
    hedge_ratio_stderr Float64 COMMENT 'standard error of hedge_ratio' CODEC(LZ4),
    intercept_stderr Float64 COMMENT 'standard error of intercept' CODEC(LZ4),
    r_squared Float64 COMMENT 'of the regression of Y on X' CODEC(LZ4),
    spread_mean Float64 COMMENT 'over the z-score window, with the current hedge ratio' CODEC(LZ4),
    spread_std Float64 COMMENT 'population standard deviation, likewise' CODEC(LZ4),
    volatility_y Float64 COMMENT 'sample standard deviation of returns of Y over the window, per bar' CODEC(LZ4),
    volatility_x Float64 COMMENT 'sample standard deviation of returns of X over the window, per bar' CODEC(LZ4),
    adf_lag Float64 COMMENT 'lag used by the ADF regression' CODEC(LZ4),
    hurst Float64 COMMENT 'Hurst exponent of the spread' CODEC(LZ4),
    variance_ratio Float64 COMMENT 'Lo-MacKinlay variance ratio of the spread' CODEC(LZ4),
    version UInt64 COMMENT '0: of klines from before the feed; 1 when first made here, higher each time a late bar changed it' CODEC(T64, LZ4),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- Tick rows come ten a second, pair, window and method: with 45 pairs 39 million a day, so days as for trades.
PARTITION BY toYYYYMMDD(time)
ORDER BY (market, pair, timeframe, window, method, time)
SETTINGS index_granularity = 1024, min_compress_block_size = 8192
COMMENT 'Statistics of pairs as stored, in every version; a statistic that is not defined is NaN; read the view pair_metrics';

CREATE TABLE IF NOT EXISTS stored_signals
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    pair LowCardinality(String) COMMENT 'Y/X, ETHUSDT/BTCUSDT',
    timeframe LowCardinality(String) COMMENT 'tick, 1s, 1m, 5m',
    window UInt32 COMMENT 'observations in the rolling window' CODEC(T64, ZSTD(1)),
    method LowCardinality(String) COMMENT 'estimator of the hedge ratio: ols, rls, kalman, tls',
    time DateTime64(6, 'UTC') COMMENT 'open time of the bar that gave the signal' CODEC(Delta, ZSTD(1)),
    signal LowCardinality(String) COMMENT 'what to do with the spread: short, long, exit',
    z_score Float64 COMMENT 'z-score of the spread at the signal' CODEC(ZSTD(1)),
    hedge_ratio Float64 COMMENT 'units of X against one unit of Y' CODEC(ZSTD(1)),
    spread Float64 COMMENT 'y - hedge_ratio * x at the signal' CODEC(ZSTD(1)),
    price_y Float64 COMMENT 'last price of Y, as traded' CODEC(Delta, ZSTD(1)),
    price_x Float64 COMMENT 'last price of X, as traded' CODEC(Delta, ZSTD(1)),
    y LowCardinality(String) COMMENT 'symbol of leg Y',
    x LowCardinality(String) COMMENT 'symbol of leg X',
    version UInt64 COMMENT '0: of klines from before the feed; 1 when first made here, higher each time a late bar changed it' CODEC(T64, ZSTD(1)),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(time)
ORDER BY (market, pair, timeframe, window, method, time)
COMMENT 'Changes of signal as stored; read the view signals';

CREATE TABLE IF NOT EXISTS stored_gaps
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbol LowCardinality(String) COMMENT 'as the exchange writes it, BTCUSDT',
    first_id Int64 COMMENT 'first id that did not arrive by itself',
    last_id Int64 COMMENT 'last id that did not arrive by itself',
    detected DateTime64(6, 'UTC') COMMENT 'when the gap was noticed, by the local clock',
    repaired Nullable(DateTime64(6, 'UTC')) COMMENT 'when it ended, by the local clock; NULL while it is open',
    restored UInt64 COMMENT 'trades restored so far',
    cause LowCardinality(String) COMMENT 'disconnect, restart, overflow, hole or stale',
    repair LowCardinality(String) COMMENT 'open, rest, late, or unavailable (the exchange has the ids no more)',
    version UInt64 COMMENT 'trades restored while open, repaired in microseconds once it ended: the later state is higher',
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- No partitions: a gap noticed again after a restart has another `detected`, and must still replace the row it had.
ORDER BY (market, symbol, first_id)
COMMENT 'Stretches of ids that did not arrive by themselves; read the view gaps';

CREATE TABLE IF NOT EXISTS alert_rules
(
    id UUID DEFAULT generateUUIDv4() COMMENT 'identifies the rule in alerts',
    created DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') COMMENT 'when the rule was written',
    name String DEFAULT '' COMMENT 'what the alert is called; empty: made from the rule',
    pair String DEFAULT '' COMMENT 'Y/X; empty: every pair',
    timeframe String DEFAULT '' COMMENT 'tick, 1s, 1m, 5m; empty: every timeframe',
    window UInt32 DEFAULT 0 COMMENT 'observations in the rolling window; 0: every window',
    method String DEFAULT '' COMMENT 'estimator of the hedge ratio; empty: every method',
    metric String DEFAULT 'z_score' COMMENT 'a numeric column of pair_metrics',
    condition Enum8('>' = 1, '>=' = 2, '<' = 3, '<=' = 4, 'abs >' = 5, 'abs >=' = 6, 'abs <' = 7, 'abs <=' = 8)
        DEFAULT 'abs >' COMMENT 'how the metric (abs: its magnitude) is compared with the threshold',
    threshold Float64 DEFAULT 2 COMMENT 'in units of the metric',
    for_seconds UInt32 DEFAULT 0 COMMENT 'seconds of market time the condition must have held; 0: at once',
    enabled Bool DEFAULT true COMMENT 'false: the rule is kept but not evaluated',
    note String DEFAULT '' COMMENT 'anything worth keeping with the rule',
    CONSTRAINT known_metric CHECK metric IN ('hedge_ratio', 'intercept', 'spread', 'z_score', 'correlation',
        'return_correlation', 'adf_statistic', 'adf_p_value', 'half_life', 'price_y', 'price_x', 'r_squared',
        'spread_mean', 'spread_std', 'volatility_y', 'volatility_x', 'hurst', 'variance_ratio'),
    CONSTRAINT at_most_an_hour CHECK for_seconds <= 3600
)
ENGINE = MergeTree
ORDER BY (created, id)
COMMENT 'Alert rules, written by users: INSERT INTO alert_rules (pair, threshold) VALUES (''ETHUSDT/BTCUSDT'', 2.5)';

CREATE TABLE IF NOT EXISTS runs
(
    run UUID COMMENT 'identifies the run',
    started DateTime64(6, 'UTC') COMMENT 'when the flow started, by the local clock',
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator',
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbols Array(String) COMMENT 'symbols watched',
    pairs Array(String) COMMENT 'pairs watched, Y/X',
    settings String COMMENT 'settings as JSON, without secrets',
    versions Map(String, String) COMMENT 'versions of the program and what it runs on',
    host String COMMENT 'name of the machine',
    pid UInt32 COMMENT 'process id'
)
ENGINE = MergeTree
ORDER BY (started, run)
COMMENT 'One row each time the flow started';
