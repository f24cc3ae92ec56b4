-- The statistic @column of every two symbols, once in each direction; 1 on the diagonal.
        SELECT '' AS one_frame, legs.1 AS "Symbol", legs.2 AS "against", if(isFinite(legs.3), legs.3, NULL) AS "correlation"
        FROM
        (
            SELECT DISTINCT arrayJoin([(y, x, @column), (x, y, @column), (y, y, 1), (x, x, 1)]) AS legs
            FROM
            (
            @newest_of_each_pair
)
        )
        ORDER BY "Symbol", "against"
