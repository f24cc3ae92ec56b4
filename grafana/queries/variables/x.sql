-- Symbols X that are paired with the selected Y.
SELECT x FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} AND y = ${y:singlequote} GROUP BY x ORDER BY @order_of_last_run, x
