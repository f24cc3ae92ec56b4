-- Counts of the user's rules, of open positions and of open gaps.
SELECT '' AS one_frame,
    (SELECT countIf(enabled) FROM alert_rules) AS "Your rules",
    (SELECT countIf(signal != 'exit') FROM latest_signals WHERE market = ${market:singlequote}) AS "Spreads in position",
    (SELECT count() FROM gaps WHERE repaired IS NULL) AS "Open gaps"
