-- Parameterized views behind the REST routes of the embedded server (connectors/clickhouse/api.py). On a ClickHouse
-- server the same answers come from SELECT * FROM api_bars(symbol = 'BTCUSDT', ...), or from its own http_handlers.
--
-- Each gives the last `row_limit` rows before `until`, oldest first. An empty market means that of the last run.
-- Ordered by the tail of the sorting key, so that ClickHouse reads from the end and stops after `row_limit` rows.

CREATE OR REPLACE VIEW api_ticks AS
SELECT * FROM
(
    SELECT id, time, price, quantity, buyer_is_maker
    FROM trades
    WHERE market = if({market:String} = '', (SELECT argMax(market, started) FROM runs), {market:String})
        AND symbol = {symbol:String}
        AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
    ORDER BY id DESC
    LIMIT {row_limit:UInt64}
)
ORDER BY id
COMMENT 'Trades of a symbol';

CREATE OR REPLACE VIEW api_bars AS
SELECT * FROM
(
    SELECT open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
        taker_buy_quote_volume, first_id, last_id, version, provisional
    FROM bars
    WHERE market = if({market:String} = '', (SELECT argMax(market, started) FROM runs), {market:String})
        AND symbol = {symbol:String} AND timeframe = {timeframe:String}
        AND open_time >= {since:DateTime64(6, 'UTC')} AND open_time < {until:DateTime64(6, 'UTC')}
    ORDER BY open_time DESC
    LIMIT {row_limit:UInt64}
)
ORDER BY open_time
COMMENT 'Bars of a symbol';

CREATE OR REPLACE VIEW api_analytics AS
SELECT * FROM
(
    SELECT * EXCEPT (market, timeframe, source)
    FROM pair_metrics
    WHERE market = if({market:String} = '', (SELECT argMax(market, started) FROM runs), {market:String})
        AND pair = {pair:String} AND timeframe = {timeframe:String}
        AND ({window:UInt32} = 0 OR window = {window:UInt32})
        AND ({method:String} = '' OR method = {method:String})
        AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
    ORDER BY time DESC, window DESC, method DESC
    LIMIT {row_limit:UInt64}
)
ORDER BY time, window, method
COMMENT 'Statistics of a pair';

CREATE OR REPLACE VIEW api_status AS
-- In a cluster each shard has its part of a table, as <table>_local, and the whole of the others.
SELECT replaceRegexpOne(name, '_local$', '') AS table,
    if(any(endsWith(name, '_local')), sum(total_rows), max(total_rows)) AS stored_rows,
    if(any(endsWith(name, '_local')), sum(total_bytes), max(total_bytes)) AS stored_bytes
FROM system.tables
WHERE database = currentDatabase() AND engine != 'Distributed'
    AND table IN ('stored_trades', 'stored_bars', 'stored_pair_metrics', 'stored_signals', 'stored_gaps', 'alert_rules', 'runs')
GROUP BY table
ORDER BY table
COMMENT 'How much is stored; rows written again count until they are merged';
