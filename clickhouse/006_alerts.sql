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

CREATE OR REPLACE VIEW pair_positions AS
SELECT w.market AS market, w.pair AS pair, w.timeframe AS timeframe, w.window AS window, w.method AS method,
    any(w.z_score) AS z_score,
    argMax(s.signal, s.time) AS last_signal,
    argMaxIf(s.signal, s.time, s.signal IN ('short', 'long')) AS last_entry,
    maxIf(s.time, s.signal IN ('short', 'long')) AS entered,
    -- Grafana looks every 10 s: a position that came and went in between is held so long that it is seen. (Bars of more
    -- than 10 s need that not: their positions last as long as a bar.)
    last_signal IN ('short', 'long') OR entered > now64(6) - INTERVAL 25 SECOND AS held,
    multiIf(NOT held, 0, last_entry = 'short', -1, 1) AS position
FROM watched_pairs AS w
LEFT JOIN
(
    SELECT * FROM signals
    WHERE (market, pair, timeframe, window, method) IN (SELECT market, pair, timeframe, window, method FROM watched_pairs)
) AS s USING (market, pair, timeframe, window, method)
GROUP BY market, pair, timeframe, window, method
COMMENT 'Where the signals of each watched pair stand: position -1 is short of the spread, 1 long, 0 flat';
