-- What the provisioned alert rules (grafana/provisioning/alerting) ask. Applied like 001_tables.sql.
--
-- An alert speaks of a pair, not of each of its timeframes, windows and methods: those that flicker within seconds would
-- cry wolf. So each pair is watched where a person would look first. Whoever wants another view of it writes a row into
-- alert_rules, which take any.

CREATE OR REPLACE VIEW watched_pairs AS
SELECT * EXCEPT behind_seconds
FROM latest_pair_metrics
-- A pair that is watched no more keeps its last row for ever.
WHERE time > (SELECT max(time) FROM stored_latest_pair_metrics) - INTERVAL 1 HOUR
-- A full window rather than one that still fills; bars of a minute, or the nearest below, or above; the shortest window;
-- OLS where it is estimated.
ORDER BY
    observations < window,
    multiIf(timeframe = 'tick', 4, timeframe = '1m', 0, endsWith(timeframe, 's'), 1, endsWith(timeframe, 'm'), 2, 3),
    toUInt32OrZero(extract(timeframe, '\\d+')) * if(endsWith(timeframe, 's'), -1, 1),
    window,
    method != 'ols',
    method
LIMIT 1 BY market, pair
COMMENT 'Newest statistics of each pair at the one timeframe, window and method that alerts watch';
