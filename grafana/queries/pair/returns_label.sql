-- Name of the x axis, which also says that there are no returns: the panel has no other place for it.
SELECT if(count() > 0, concat('X: ', ${x:singlequote}),
    'No returns in this time range: is the flow running?') AS label
FROM
(
    @returns_of_legs
)
