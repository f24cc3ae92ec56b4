-- How fresh the stored data are, always as one row: a sentence, and the stored range of times (ms) for its link.
-- @stored is a query of one row: first and last time in us (0 where nothing is stored), and the source.
-- @subject is SQL of a text that names what was looked for.
        WITH
            source IN ('binance', 'simulator') AS live,
            (toUnixTimestamp64Micro(now64(6)) - last) / 1e6 - @bar_ms / 1000 AS age,
            formatDateTime(fromUnixTimestamp64Micro(last), '%Y-%m-%d %H:%i:%S') AS until
        SELECT
            multiIf(
                last = 0, concat('No bars ', if(${market:singlequote} = '', '', concat(@subject, ' ')),
                    'are stored yet. @how_to_start'),
                live AND age > greatest(@stale_seconds, 3 * @bar_ms / 1000),
                    concat('No bars for ', formatReadableTimeDelta(age), ': is the flow running?'),
                live, concat(if(source = 'simulator', 'SIMULATED prices', 'Live'), ', newest bar ',
                    toString(greatest(0, round(age))), ' s old'),
                last < toUnixTimestamp64Micro(toDateTime64($__fromTime_ms, 6))
                    OR first > toUnixTimestamp64Micro(toDateTime64($__toTime_ms, 6)),
                    concat('Outside this time range: the ', source, ' ends ', until, ' UTC. Click to go there.'),
                concat('Replay of a ', source, ', up to ', until, ' UTC')) AS "Data",
            intDiv(first, 1000) AS "from",
            intDiv(last, 1000) + 1000 AS "to"
        FROM (@stored)
