-- Setting @name of the last run, or @default if it was not stored.
SELECT toString(if(JSONHas(argMax(settings, started) AS s, '@name'),
    JSONExtractFloat(s, '@name'), @default)) AS z FROM runs
