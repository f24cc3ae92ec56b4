-- Tables that the flow writes. Users ask the views in views.sql and latest.sql.
--
-- connectors/clickhouse/schema.py applies the files of this folder in a fixed order, which it lists: a store's database
-- is `pairflow` unless its DSN names another. By hand, on a server:
-- clickhouse-client --database pairflow --multiquery < clickhouse/tables.sql, and so on for each file in that order.
--
-- An older store is upgraded when it is opened. A column that is added here, or that has another type, codec, default or
-- comment here, is added to or changed in its table; so are constraints and comments of tables. Column declarations are
-- written as ClickHouse prints them: name, type, DEFAULT, COMMENT, CODEC.
--
-- These rules hold for every stored_* table:
--
-- * The sorting key is the row's natural key, so writing a row twice changes nothing: ReplacingMergeTree keeps one row
--   for each key. It removes the others when it merges parts, which happens later; until then FINAL removes them while
--   reading. The views read with FINAL, so users ask the views.
-- * Columns with few values come first in the key and time (or id) last: the rows of one symbol in one range of time lie
--   together.
-- * A partition is a function of columns that never change for a key. Rows with the same key are always in the same
--   partition, and FINAL works on each partition alone.
-- * There is no TTL: a store may hold years of archive, and rows older than a TTL would disappear as they arrive.
--   To keep 90 days:
--   ALTER TABLE stored_trades MODIFY TTL toDateTime(time) + INTERVAL 90 DAY SETTINGS ttl_only_drop_parts = 1
-- * `source` says where prices came from. It is not part of the key, as a trade is the same trade whether it was read
--   live, from a recording or from an archive.
-- * Codecs were chosen on 35,389 recorded trades of BTCUSDT and ETHUSDT, in bytes a row (all are lossless):
--     ids         DoubleDelta + LZ4 0.01, Delta + ZSTD 0.39, ZSTD 1.02: contiguous ids have no second difference
--     trade time  Delta + ZSTD 0.74, ZSTD 0.75, DoubleDelta + ZSTD 1.03: trades come in bursts; bars are evenly spaced,
--                 so they have DoubleDelta
--     price       Delta + ZSTD 0.72, FPC + ZSTD 0.80, ZSTD 1.01, Gorilla + ZSTD 1.05
--     quantity    ZSTD 2.19, FPC + ZSTD 4.62, Gorilla + ZSTD 5.31: the same round lots are traded again and again
--     flags       T64 + ZSTD 0.05, ZSTD 0.09
--   ZSTD has level 1: level 3 saves about 5 % more and slows writing down. Statistics of pairs have LZ4, as their values
--   hardly repeat: 105 bytes a row instead of 93, a quarter less work to insert, half the work to merge.
-- * Bars and statistics have granules of 1,024 rows and small blocks, as most queries read the newest rows of many
--   series: the last minute of 45 pairs takes a quarter of the time that granules of 8,192 rows take, for a quarter more
--   disk space. Trades are read in long ranges.

CREATE TABLE IF NOT EXISTS schema_version
(
    version UInt32 COMMENT 'version of the schema; a program refuses a store with a later version than its own',
    applied DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') COMMENT 'when this schema was applied, by the local clock',
    fingerprint String DEFAULT '' COMMENT 'hash of the statements that were applied; empty: an earlier program did not keep one'
)
ENGINE = MergeTree
ORDER BY version
COMMENT 'Schemas that were applied to this database';

CREATE TABLE IF NOT EXISTS stored_trades
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbol LowCardinality(String) COMMENT 'as the exchange writes it, BTCUSDT',
    id Int64 COMMENT 'trade id (aggregate trade id on an aggTrade stream), contiguous per market and symbol' CODEC(DoubleDelta, LZ4),
    time DateTime64(6, 'UTC') COMMENT 'time of the trade, by the exchange' CODEC(Delta, ZSTD(1)),
    price Float64 COMMENT 'price in the quote asset for one unit of the base asset' CODEC(Delta, ZSTD(1)),
    quantity Float64 COMMENT 'quantity of the base asset' CODEC(ZSTD(1)),
    buyer_is_maker Bool COMMENT 'true: the taker sold' CODEC(T64, ZSTD(1)),
    first_id Int64 COMMENT 'first trade id of an aggregate trade; id itself on a trade stream' CODEC(DoubleDelta, LZ4),
    last_id Int64 COMMENT 'last trade id of an aggregate trade; id itself on a trade stream' CODEC(DoubleDelta, LZ4),
    in_bars Bool COMMENT 'false: has an id, but the exchange leaves it out of its klines, and so do the bars' CODEC(T64, ZSTD(1)),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree
-- A day has tens of millions of trades: partitions of a day keep merges small, and a day can be dropped at once.
PARTITION BY toYYYYMMDD(time)
ORDER BY (market, symbol, id)
COMMENT 'Trades as stored; read the view trades';

CREATE TABLE IF NOT EXISTS stored_bars
(
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbol LowCardinality(String) COMMENT 'as the exchange writes it, BTCUSDT',
    timeframe LowCardinality(String) COMMENT 'length of the bar: 1s, 1m, 5m',
    open_time DateTime64(6, 'UTC') COMMENT 'the bar covers [open_time, open_time + timeframe)' CODEC(DoubleDelta, ZSTD(1)),
    open Float64 COMMENT 'price of the first trade; the previous close if trades = 0' CODEC(Delta, ZSTD(1)),
    high Float64 COMMENT 'highest price' CODEC(Delta, ZSTD(1)),
    low Float64 COMMENT 'lowest price' CODEC(Delta, ZSTD(1)),
    close Float64 COMMENT 'price of the last trade' CODEC(Delta, ZSTD(1)),
    volume Float64 COMMENT 'quantity of the base asset' CODEC(ZSTD(1)),
    quote_volume Float64 COMMENT 'amount of the quote asset: sum of price * quantity' CODEC(ZSTD(1)),
    trades UInt64 COMMENT 'number of trades; 0 in a bar that repeats the last close' CODEC(T64, ZSTD(1)),
    taker_buy_volume Float64 COMMENT 'volume of trades in which the taker bought' CODEC(ZSTD(1)),
    taker_buy_quote_volume Float64 COMMENT 'quote_volume of trades in which the taker bought' CODEC(ZSTD(1)),
    first_id Int64 COMMENT 'first trade id in the bar; -1 if there is none or it is not known' CODEC(Delta, ZSTD(1)),
    last_id Int64 COMMENT 'last trade id in the bar; -1 if there is none or it is not known' CODEC(Delta, ZSTD(1)),
    close_time DateTime64(6, 'UTC') COMMENT 'last microsecond of the bar' CODEC(DoubleDelta, ZSTD(1)),
    version UInt64 COMMENT '0: the exchange''s own kline, from before the feed began; 1 when first computed here, higher each time a late trade changed it' CODEC(T64, ZSTD(1)),
    provisional Bool COMMENT 'trades of this bar are missing and being fetched: a higher version will follow' CODEC(T64, ZSTD(1)),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- A symbol has 86,400 one-second bars a day: a month of 50 symbols has 130 million rows in a few parts.
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
    hedge_ratio Float64 COMMENT 'beta of the regression of Y on X (of logarithms when the price scale is log)' CODEC(LZ4),
    intercept Float64 COMMENT 'alpha of the regression of Y on X' CODEC(LZ4),
    spread Float64 COMMENT 'y - hedge_ratio * x' CODEC(LZ4),
    z_score Float64 COMMENT '(spread - spread_mean) / spread_std' CODEC(LZ4),
    correlation Float64 COMMENT 'Pearson correlation of prices (of logarithms when the price scale is log) over the window' CODEC(LZ4),
    return_correlation Float64 COMMENT 'Pearson correlation of returns over the window' CODEC(LZ4),
    adf_statistic Float64 COMMENT 'augmented Dickey-Fuller t statistic of the spread over the window' CODEC(LZ4),
    adf_p_value Float64 COMMENT 'MacKinnon p-value of adf_statistic' CODEC(LZ4),
    half_life Float64 COMMENT 'half-life of mean reversion, in bars; inf where the spread does not revert' CODEC(LZ4),
    y LowCardinality(String) COMMENT 'symbol of leg Y',
    x LowCardinality(String) COMMENT 'symbol of leg X',
    observations UInt32 COMMENT 'observations in the window now, at most window' CODEC(T64, LZ4),
    price_y Float64 COMMENT 'last traded price of Y' CODEC(Delta, LZ4),
    price_x Float64 COMMENT 'last traded price of X' CODEC(Delta, LZ4),
    hedge_ratio_stderr Float64 COMMENT 'standard error of hedge_ratio' CODEC(LZ4),
    intercept_stderr Float64 COMMENT 'standard error of intercept' CODEC(LZ4),
    r_squared Float64 COMMENT 'coefficient of determination of the regression of Y on X' CODEC(LZ4),
    spread_mean Float64 COMMENT 'mean of the spread over the z-score window, with the current hedge ratio' CODEC(LZ4),
    spread_std Float64 COMMENT 'population standard deviation of the spread over the z-score window, with the current hedge ratio' CODEC(LZ4),
    volatility_y Float64 COMMENT 'sample standard deviation of returns of Y over the window, per bar' CODEC(LZ4),
    volatility_x Float64 COMMENT 'sample standard deviation of returns of X over the window, per bar' CODEC(LZ4),
    adf_lag Float64 COMMENT 'lag used by the ADF regression' CODEC(LZ4),
    hurst Float64 COMMENT 'Hurst exponent of the spread' CODEC(LZ4),
    variance_ratio Float64 COMMENT 'Lo-MacKinlay variance ratio of the spread' CODEC(LZ4),
    version UInt64 COMMENT '0: computed from klines from before the feed began; 1 when first computed here, higher each time a late bar changed it' CODEC(T64, LZ4),
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- Each pair, window and method has ten tick rows a second: 45 pairs have 39 million a day, so days as for trades.
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
    time DateTime64(6, 'UTC') COMMENT 'open time of the bar at which the signal was given' CODEC(Delta, ZSTD(1)),
    signal LowCardinality(String) COMMENT 'what to do with the spread: short, long or exit',
    z_score Float64 COMMENT 'z-score of the spread at the signal' CODEC(ZSTD(1)),
    hedge_ratio Float64 COMMENT 'units of X against one unit of Y' CODEC(ZSTD(1)),
    spread Float64 COMMENT 'y - hedge_ratio * x at the signal' CODEC(ZSTD(1)),
    price_y Float64 COMMENT 'last traded price of Y' CODEC(Delta, ZSTD(1)),
    price_x Float64 COMMENT 'last traded price of X' CODEC(Delta, ZSTD(1)),
    y LowCardinality(String) COMMENT 'symbol of leg Y',
    x LowCardinality(String) COMMENT 'symbol of leg X',
    version UInt64 COMMENT '0: computed from klines from before the feed began; 1 when first computed here, higher each time a late bar changed it' CODEC(T64, ZSTD(1)),
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
    first_id Int64 COMMENT 'first id that did not arrive from the stream',
    last_id Int64 COMMENT 'last id that did not arrive from the stream',
    detected DateTime64(6, 'UTC') COMMENT 'when the gap was noticed, by the local clock',
    repaired Nullable(DateTime64(6, 'UTC')) COMMENT 'when the gap ended, by the local clock; NULL while it is open',
    restored UInt64 COMMENT 'trades restored so far',
    cause LowCardinality(String) COMMENT 'why the ids were missing: disconnect, restart, overflow, hole or stale',
    repair LowCardinality(String) COMMENT 'how the gap ended: open (not yet), rest, late, or unavailable (the exchange no longer has the trades)',
    version UInt64 COMMENT 'number of restored trades while the gap is open, then `repaired` in microseconds: a later state has a higher version',
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator'
)
ENGINE = ReplacingMergeTree(version)
-- No partitions: a gap that is noticed again after a restart has another `detected` and has to replace its first row.
ORDER BY (market, symbol, first_id)
COMMENT 'Ranges of ids that did not arrive from the stream; read the view gaps';

CREATE TABLE IF NOT EXISTS runs
(
    run UUID COMMENT 'identifies the run',
    started DateTime64(6, 'UTC') COMMENT 'when the flow started, by the local clock',
    source LowCardinality(String) COMMENT 'binance, recording, archive or simulator',
    market LowCardinality(String) COMMENT 'spot or usdm',
    symbols Array(String) COMMENT 'symbols watched',
    pairs Array(String) COMMENT 'pairs watched, Y/X',
    settings String COMMENT 'settings of the run as JSON, without secrets',
    versions Map(String, String) COMMENT 'versions of Python and of the main packages',
    host String COMMENT 'name of the machine',
    pid UInt32 COMMENT 'process id'
)
ENGINE = MergeTree
ORDER BY (started, run)
COMMENT 'One row each time the flow started';
