-- Methods of the hedge ratio.
SELECT method FROM stored_latest_pair_metrics WHERE market = ${market:singlequote} GROUP BY method
ORDER BY indexOf(['ols', 'rls', 'kalman', 'tls'], method)
