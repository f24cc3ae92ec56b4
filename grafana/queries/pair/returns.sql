-- Returns of both legs (%), with the least-squares line through them.
-- Without returns there is one empty point, because Grafana needs columns to draw the axes.
SELECT point.1 AS "Return of X", point.2 AS "Return of Y", fit.1 * point.1 + fit.2 AS "regression"
FROM
(
    SELECT simpleLinearRegression(assumeNotNull(rx), assumeNotNull(ry)) AS fit,
        arraySort(groupArray((assumeNotNull(rx), ry))) AS points
    FROM
    (
        @returns_of_legs
    )
)
ARRAY JOIN if(empty(points), [(0, NULL)], points) AS point
