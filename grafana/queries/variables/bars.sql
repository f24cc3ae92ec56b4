-- Timeframe of the bars that are shown: the selected one, or for ticks, which have no bars, the shortest.
SELECT if(${timeframe:singlequote} != 'tick', ${timeframe:singlequote},
    (SELECT argMin(timeframe, @timeframe_ms) FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} AND timeframe != 'tick')) AS bars
