-- The states of the query @states; without any, one row of states that is called @empty_text.
-- Grafana would only say that the query lacks a field.
SELECT row.1 AS "Time", row.2 AS series, row.3 AS "Value"
FROM
(
    SELECT groupArray(("Time", series, "Value")) AS found
    FROM
    (
        @states
    )
)
ARRAY JOIN if(empty(found), [(toDateTime64($__fromTime_ms, 6), '@empty_text', 0), (toDateTime64($__toTime_ms, 6), '@empty_text', 0)], found) AS row
ORDER BY "Time", series
