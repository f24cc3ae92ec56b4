-- Markets, the one of the last run first.
SELECT market FROM runs GROUP BY market ORDER BY max(started) DESC
