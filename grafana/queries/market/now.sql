-- Numbers of pairs that are far apart, stationary, or both, at the end of the time range.
        SELECT '' AS one_frame, count() AS "Pairs", countIf(abs(z_score) > @z_entry) AS "Beyond entry",
            countIf(adf_p_value < @significant) AS "Stationary at 5 %",
            countIf(abs(z_score) > @z_entry AND adf_p_value < @significant) AS "Both",
            quantileOrNullIf(0.5)(return_correlation, isFinite(return_correlation)) AS "Median correlation"
        FROM
        (
            @newest_of_each_pair
)
