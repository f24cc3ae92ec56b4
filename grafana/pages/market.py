"""The dashboard of all pairs: which are far apart now, and which belong together."""

from grafana.dashboard import TO_PAIR, data_panel, variables
from grafana.dashboard import dashboard as framed
from grafana.levels import CORRELATED, Z_ENTRY, Z_EXIT
from grafana.panels import (
    ADF_READINGS,
    BAD,
    BARS,
    FLAT,
    GOOD,
    HOW_TO_START,
    LINE,
    NO_BARS,
    POSITIONS,
    QUIET,
    SHORT,
    WARN,
    Json,
    fixed,
    override,
    series_query,
    table,
    table_query,
    thresholds,
    tiles,
    time_series,
    timeline,
)
from grafana.sql import sql

_NO_PAIRS = (
    f"No statistics at the end of this time range. {HOW_TO_START} A replay lies at its own dates: the link"
    " in the panel Data goes there."
)


def dashboard() -> Json:
    """Return the dashboard."""
    panels = {
        1: data_panel("pairflow-market", sql("market/stored"), "concat('at ', ${timeframe:singlequote})"),
        2: _now(),
        3: _ranking(),
        4: _z_scores(),
        5: _matrix("Correlation of returns", "return_correlation"),
        6: _matrix("Correlation of prices", "correlation"),
        7: _signals(),
        8: _volume(),
        9: _movers(),
    }
    return framed(
        "pairflow-market",
        "Market",
        "All pairs: which are far apart now, which belong together.",
        panels,
        variables(pair=False),
    )


def _now() -> Json:
    return tiles(
        "Now",
        "At the end of the time range, at the chosen timeframe, window and method. Beyond entry: |z| over"
        " PAIRFLOW_Z_ENTRY. Both: beyond entry and stationary, what a pair trader looks for. The median is"
        " of the correlations of returns.",
        (19, 4),
        sql("market/now"),
        sizes={"titleSize": 13, "valueSize": 16},
        overrides=[
            override("Both", thresholds=thresholds((None, "text"), (1, GOOD))),
            override("Beyond entry", thresholds=thresholds((None, "text"), (1, WARN))),
            override("Median correlation", decimals=2),
        ],
    )


def _ranking() -> Json:
    return table(
        "Ranking of pairs",
        "All pairs at the end of the time range, the farthest out first; click a header to sort, a pair to"
        " open it.",
        (24, 11),
        [table_query(sql("market/ranking", p_value='"ADF p"', advice=""))],
        empty=_NO_PAIRS,
        sort_by=[("|z|", True)],
        overrides=[
            override(
                "Pair",
                links=[TO_PAIR],
                custom__width=155,
                custom__cellOptions={"type": "color-text"},
                color=fixed("blue"),
            ),
            override(
                "|z|",
                decimals=2,
                min=0,
                max=2 * Z_ENTRY,
                thresholds=thresholds((None, FLAT), (Z_EXIT, "blue"), (Z_ENTRY, SHORT)),
                color={"mode": "thresholds"},
                custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                custom__width=95,
            ),
            override("z-score", decimals=2),
            override("Spread is", mappings=POSITIONS, custom__cellOptions={"type": "color-text"}),
            override(
                "/^Corr/",
                decimals=3,
                thresholds=thresholds((None, BAD), (CORRELATED, "text")),
                color={"mode": "thresholds"},
                custom__cellOptions={"type": "color-text"},
                custom__minWidth=70,
            ),
            override("ADF p", decimals=4),
            override(
                "Cointegration",
                mappings=ADF_READINGS,
                custom__cellOptions={"type": "color-text"},
                custom__width=130,
            ),
            override("Half-life", unit="s", decimals=1),
            override("Hedge ratio", decimals=5, custom__minWidth=80),
            override("R²", decimals=3),
            override("/^(y|x)$/", custom__hideFrom__viz=True),
        ],
    )


def _z_scores() -> Json:
    lines = thresholds(
        (None, "transparent"), (-Z_ENTRY, BAD), (-Z_EXIT, QUIET), (Z_EXIT, QUIET), (Z_ENTRY, BAD)
    )
    return time_series(
        "z-scores of the pairs that are farthest out",
        "The eight pairs with the largest |z| at the end of the time range.",
        (24, 9),
        [series_query(sql("market/z_scores"))],
        {**LINE, "thresholdsStyle": {"mode": "dashed"}},
        thresholds=lines,
        decimals=2,
        sort="desc",
        empty=_NO_PAIRS,
    )


def _matrix(title: str, column: str) -> Json:
    to_matrix = {
        "rowField": "Symbol",
        "columnField": "against",
        "valueField": "correlation",
        "emptyValue": "null",
    }
    return table(
        title,
        "At the end of the time range. Green: move together; red: move against each other.",
        (12, 9),
        [table_query(sql("market/matrix", column=column))],
        empty=_NO_PAIRS,
        min=-1,
        max=1,
        decimals=2,
        color={"mode": "continuous-RdYlGr"},
        overrides=[
            override(
                "/^(?!Symbol).*/",
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                custom__align="center",
            ),
            override("/^Symbol/", displayName="Symbol", custom__cellOptions={"type": "auto"}),
        ],
        transformations=[{"id": "groupingToMatrix", "options": to_matrix}],
    )


def _signals() -> Json:
    return timeline(
        "Signals of all pairs: red short, green long, gray flat",
        "Short the spread: sell Y, buy X by the hedge ratio. Long: the other way round.",
        (24, 9),
        sql("market/signals"),
        empty_text="No pairs here: is the flow running?",
        empty=_NO_PAIRS,
        mappings=POSITIONS,
        per_page=20,
    )


def _volume() -> Json:
    return time_series(
        "Volume",
        "Quote asset, by symbol.",
        (10, 9),
        [series_query(sql("market/volume"))],
        BARS,
        unit="short",
        empty=NO_BARS,
        maxDataPoints=120,
        calcs=("sum",),
    )


def _movers() -> Json:
    return table(
        "Movers",
        "Symbols over the time range. Volume in the quote asset; buys: the part of it that takers bought.",
        (14, 9),
        [table_query(sql("market/movers"))],
        empty=NO_BARS,
        sort_by=[("Volume", True)],
        overrides=[
            override(
                "Change",
                unit="percent",
                decimals=2,
                thresholds=thresholds((None, BAD), (0, GOOD)),
                color={"mode": "thresholds"},
                custom__cellOptions={"type": "color-text"},
                custom__width=75,
            ),
            override("Range", unit="percent", decimals=2, custom__width=65),
            override("Price", custom__align="right"),
            override("Volume", unit="short"),
            override("Trades", unit="short", custom__width=70),
            override("Buys", unit="percentunit", decimals=0, custom__width=55),
        ],
    )
