-- Views of a pairflow store: what users, Grafana and the REST routes ask. Applied like 001_tables.sql.
--
-- Each of the first five shows a stored_* table with every row exactly once, in its highest version. Conditions on key
-- columns reach the table's index through the view, and FINAL merges only rows whose key ranges overlap.
-- do_not_merge_across_partitions_select_final: rows of one key never lie in two partitions (see 001_tables.sql).

CREATE OR REPLACE VIEW trades AS
SELECT market, symbol, id, time, price, quantity, buyer_is_maker, first_id, last_id, in_bars, source
FROM stored_trades FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Trades, each once';

CREATE OR REPLACE VIEW bars AS
SELECT market, symbol, timeframe, open_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_id, last_id, close_time, version, provisional, source
FROM stored_bars FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'OHLCV bars, each once, in its newest version';

CREATE OR REPLACE VIEW pair_metrics AS
SELECT market, pair, timeframe, window, method, time, hedge_ratio, intercept, spread, z_score, correlation,
    return_correlation, adf_statistic, adf_p_value, half_life, y, x, observations, price_y, price_x, hedge_ratio_stderr,
    intercept_stderr, r_squared, spread_mean, spread_std, volatility_y, volatility_x, adf_lag, hurst, variance_ratio,
    version, source
FROM stored_pair_metrics FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Statistics of pairs at every bar, each once, in its newest version; time joins bars.open_time';

CREATE OR REPLACE VIEW signals AS
SELECT market, pair, timeframe, window, method, time, signal, z_score, hedge_ratio, spread, price_y, price_x, y, x,
    version, source
FROM stored_signals FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Changes of signal of the spread: short, long, exit';

CREATE OR REPLACE VIEW gaps AS
SELECT market, symbol, first_id, last_id, last_id - first_id + 1 AS missing, detected, repaired, restored, cause, repair,
    version, source
FROM stored_gaps FINAL
COMMENT 'Stretches of ids that did not arrive by themselves, and how each ended';
