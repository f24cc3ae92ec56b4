-- Length of a bar of the selected timeframe, ms; that of a tick is 100 ms.
SELECT toString(greatest(if(${timeframe:singlequote} = 'tick', 100, toInt64OrZero(extract(${timeframe:singlequote}, '^[0-9]+')) * transform(extract(${timeframe:singlequote}, '[a-z]+$'), ['s', 'm', 'h', 'd'], [1000, 60000, 3600000, 86400000], 1000)), 100)) AS ms
