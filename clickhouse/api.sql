-- Views behind the REST routes (connectors/clickhouse/server/api.py), most with parameters: a ClickHouse server gives the
-- same answers to SELECT * FROM api_bars(symbol = 'BTCUSDT', ...), and over its own http_handlers.
--
-- Each returns the last `row_limit` rows before `until`, oldest first. An empty market means that of the last run. The
-- inner query orders by the last columns of the sorting key, so that ClickHouse reads from the end and stops after
-- `row_limit` rows.
--
-- A name that no run has watched is an error that lists the known names, and not an empty answer.

CREATE OR REPLACE VIEW known_names AS
SELECT
    arraySort(groupUniqArrayArray(symbols)) AS symbols,
    arraySort(groupUniqArrayArray(pairs)) AS pairs,
    arrayMap(length -> multiIf(length = 0, 'tick',
            length % 86400000000 = 0, concat(toString(intDiv(length, 86400000000)), 'd'),
            length % 3600000000 = 0, concat(toString(intDiv(length, 3600000000)), 'h'),
            length % 60000000 = 0, concat(toString(intDiv(length, 60000000)), 'm'),
            concat(toString(intDiv(length, 1000000)), 's')),
        arraySort(groupUniqArrayArray(JSONExtract(settings, 'timeframes', 'Array(Int64)')))) AS timeframes,
    arraySort(groupUniqArrayArray(JSONExtract(settings, 'windows', 'Array(UInt32)'))) AS windows,
    arraySort(groupUniqArrayArray(JSONExtract(settings, 'methods', 'Array(String)'))) AS methods,
    if(length(symbols) > 20, concat(arrayStringConcat(arraySlice(symbols, 1, 20), ', '), ' ..'),
        arrayStringConcat(symbols, ', ')) AS symbol_list,
    if(length(pairs) > 20, concat(arrayStringConcat(arraySlice(pairs, 1, 20), ', '), ' ..'),
        arrayStringConcat(pairs, ', ')) AS pair_list
FROM runs
COMMENT 'Symbols, pairs, timeframes, windows and methods of all runs, in one row';

ALTER TABLE known_names
    COMMENT COLUMN timeframes 'timeframes of all runs, as tick, 1s, 1m',
    COMMENT COLUMN windows 'rolling windows of all runs',
    COMMENT COLUMN methods 'estimators of the hedge ratio of all runs',
    COMMENT COLUMN symbol_list 'the first 20 symbols in one text',
    COMMENT COLUMN pair_list 'the first 20 pairs in one text';

CREATE OR REPLACE VIEW api_ticks AS
WITH (
    SELECT if(has(symbols, {symbol:String}), '',
        concat('no symbol ', {symbol:String}, ' is watched: expected one of ', symbol_list))
    FROM known_names
) AS wrong
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
WHERE (SELECT throwIf(wrong != '', assumeNotNull(wrong))) = 0
ORDER BY id
COMMENT 'Trades of a symbol';

CREATE OR REPLACE VIEW api_bars AS
WITH (
    SELECT multiIf(
        NOT has(symbols, {symbol:String}),
            concat('no symbol ', {symbol:String}, ' is watched: expected one of ', symbol_list),
        NOT has(timeframes, {timeframe:String}) OR {timeframe:String} = 'tick',
            concat('no bars of ', {timeframe:String}, ' are made: expected one of ',
                arrayStringConcat(arrayFilter(name -> name != 'tick', timeframes), ', ')),
        '')
    FROM known_names
) AS wrong
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
WHERE (SELECT throwIf(wrong != '', assumeNotNull(wrong))) = 0
ORDER BY open_time
COMMENT 'Bars of a symbol';

CREATE OR REPLACE VIEW api_analytics AS
WITH (
    SELECT multiIf(
        NOT has(pairs, {pair:String}),
            concat('no pair ', {pair:String}, ' (Y/X) is watched: expected one of ', pair_list),
        NOT has(timeframes, {timeframe:String}),
            concat('no statistics of ', {timeframe:String}, ' are made: expected one of ',
                arrayStringConcat(timeframes, ', ')),
        {window:UInt32} != 0 AND NOT has(windows, {window:UInt32}),
            concat('no window of ', toString({window:UInt32}), ' bars is computed: expected one of ',
                arrayStringConcat(arrayMap(w -> toString(w), windows), ', ')),
        {method:String} != '' AND NOT has(methods, {method:String}),
            concat('no hedge ratio by ', {method:String}, ' is computed: expected one of ',
                arrayStringConcat(methods, ', ')),
        '')
    FROM known_names
) AS wrong
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
WHERE (SELECT throwIf(wrong != '', assumeNotNull(wrong))) = 0
ORDER BY time, window, method
COMMENT 'Statistics of a pair';

CREATE OR REPLACE VIEW table_sizes AS
-- In a cluster each shard has a part of the rows of some tables, in <table>_local, and all rows of the others.
SELECT replaceRegexpAll(name, '^stored_|_local$', '') AS table,
    if(any(endsWith(name, '_local')), sum(total_rows), max(total_rows)) AS stored_rows,
    if(any(endsWith(name, '_local')), sum(total_bytes), max(total_bytes)) AS stored_bytes
FROM system.tables
WHERE database = currentDatabase() AND engine != 'Distributed'
    AND table IN ('trades', 'bars', 'pair_metrics', 'signals', 'gaps', 'alert_rules', 'runs')
GROUP BY table
ORDER BY table
COMMENT 'Number of rows and bytes of each table; a row that was written again counts until parts are merged';

ALTER TABLE table_sizes
    COMMENT COLUMN table 'name of the table',
    COMMENT COLUMN stored_rows 'number of rows; a row that was written again counts until parts are merged',
    COMMENT COLUMN stored_bytes 'bytes on disk';

CREATE OR REPLACE VIEW api_status AS
WITH
    (SELECT maxOrNull(time) FROM pipeline_metrics) AS sampled,
    (
        SELECT sumMap(map(name, value)) FROM pipeline_metrics
        WHERE time = sampled AND isFinite(value)
    ) AS now_is,
    (
        SELECT groupArray((labels['name'], labels['state'])) FROM pipeline_metrics
        WHERE name = 'pairflow_connection' AND time = sampled
    ) AS connections
SELECT
    -- A sample is taken every 5 s, and later when an insert waits for a slow store.
    if(sampled > now64(3) - INTERVAL 15 SECOND, 'running', 'stopped') AS status,
    source, market, symbols, pairs,
    (SELECT timeframes FROM known_names) AS timeframes,
    started,
    sampled AS updated,
    toUInt64(now_is['pairflow_frames_total']) AS messages_received,
    toUInt64(now_is['pairflow_trades_total']) AS trades,
    if(mapContains(now_is, 'pairflow_bar_lag_seconds'), now_is['pairflow_bar_lag_seconds'], NULL) AS lag_seconds,
    CAST((
        CAST(connections, 'Map(String, String)'), now_is['pairflow_message_age_seconds'],
        now_is['pairflow_reconnections_total'], now_is['pairflow_open_gaps'], now_is['pairflow_restored_trades_total'],
        now_is['pairflow_unavailable_trades_total'], now_is['pairflow_duplicates_total']
    ), 'Tuple(connections Map(String, String), last_message_seconds Float64, reconnections UInt64, open_gaps UInt64,
        restored_trades UInt64, unavailable_trades UInt64, duplicates UInt64)') AS feed,
    CAST((
        now_is['pairflow_buffered_bytes'], now_is['pairflow_held_trades'], now_is['pairflow_rows_waiting'],
        now_is['pairflow_insert_failing_seconds']
    ), 'Tuple(received_bytes UInt64, held_trades UInt64, rows_to_store UInt64, store_failing_seconds Float64)') AS buffers,
    (SELECT mapFromArrays(groupArray(table), groupArray(ifNull(stored_rows, 0))) FROM table_sizes) AS stored_rows,
    (SELECT sum(stored_bytes) FROM table_sizes) AS stored_bytes
FROM runs
ORDER BY runs.started DESC
LIMIT 1
COMMENT 'State of the last run: feed, buffers, what is stored';

ALTER TABLE api_status
    COMMENT COLUMN status 'running, or stopped: the last sample is older than 15 s',
    COMMENT COLUMN timeframes 'timeframes of all runs',
    COMMENT COLUMN updated 'time of the last sample; NULL if there is none',
    COMMENT COLUMN messages_received 'messages of the exchange',
    COMMENT COLUMN trades 'trades received',
    COMMENT COLUMN lag_seconds 'from the end of the newest bar to when it was stored',
    COMMENT COLUMN feed 'connections, age of the last message, reconnections, gaps and duplicates',
    COMMENT COLUMN buffers 'what waits: received bytes, held trades, rows to store',
    COMMENT COLUMN stored_rows 'number of rows by table',
    COMMENT COLUMN stored_bytes 'bytes on disk of all tables';
