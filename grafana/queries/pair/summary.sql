-- Each statistic of the pair: its last value and what it means, and mean, lowest and highest in the time range.
-- @columns are tuples of a statistic's name and its SQL, @names are the names in the order of the rows.
SELECT '' AS one_frame, name AS "Statistic", latest AS "Now", reading AS "Reading", mean AS "Mean", lowest AS "Lowest",
    highest AS "Highest"
FROM
(
    SELECT name, argMaxOrNullIf(v, at, isFinite(v)) AS latest, avgOrNullIf(v, isFinite(v)) AS mean,
        minOrNullIf(v, isFinite(v)) AS lowest, maxOrNullIf(v, isFinite(v)) AS highest,
        multiIf(
            latest IS NULL, 'not known yet',
            name = 'z-score' AND abs(latest) > @z_entry, 'beyond an entry line',
            name = 'z-score' AND abs(latest) < @z_exit, 'within the exit lines',
            name IN ('Correlation', 'Correlation of returns'),
                if(latest < @correlated, 'weak: the pair may part', 'strong'),
            name = 'ADF statistic', '5 % lies at @dickey_fuller_5',
            name = 'ADF p-value', @adf_reading,
            name = 'Half-life, bars', formatReadableTimeDelta(latest * @bar_ms / 1000),
            name IN ('Hurst exponent', 'Variance ratio'),
                multiIf(latest / if(name = 'Variance ratio', 2, 1) < 0.45, 'reverts',
                    latest / if(name = 'Variance ratio', 2, 1) > 0.55, 'trends', 'a random walk'),
            '') AS reading
    FROM
    (
        SELECT m.time AS at, arrayJoin([@columns]) AS statistic, statistic.1 AS name, statistic.2 AS v
        FROM stored_pair_metrics AS m FINAL
        WHERE @selected_pair
            AND $__timeFilter_ms(m.time)
    )
    GROUP BY name
)
ORDER BY indexOf([@names], name)
