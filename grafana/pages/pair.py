"""The dashboard of one pair: prices, spread, z-score, cointegration and signals."""

from grafana.dashboard import annotation, data_panel, variables
from grafana.dashboard import dashboard as framed
from grafana.levels import CORRELATED, DICKEY_FULLER_5, SIGNIFICANT, Z_ENTRY
from grafana.panels import (
    ADF_READINGS,
    BAD,
    BARS,
    DASHED,
    HIDDEN_LEGEND,
    LEG_X,
    LEG_Y,
    LINE,
    LONG,
    NO_BARS,
    NO_STATISTICS,
    POSITIONS,
    QUIET,
    SHORT,
    WARN,
    Z_SCORE,
    Json,
    fixed,
    override,
    panel,
    series_query,
    table,
    table_query,
    thresholds,
    tiles,
    time_series,
    timeline,
)
from grafana.sql import quoted, sql

_LEGS_NAMED = [
    override("Y", color=fixed(LEG_Y), displayName="${y}"),
    override("X", color=fixed(LEG_X), displayName="${x}"),
]

_SUMMARY = {
    "z-score": "z_score",
    "Spread": "spread",
    "Its deviation": "spread_std",
    "Hedge ratio": "hedge_ratio",
    "Its standard error": "hedge_ratio_stderr",
    "Intercept": "intercept",
    "R²": "r_squared",
    "Correlation": "correlation",
    "Correlation of returns": "return_correlation",
    "ADF statistic": "adf_statistic",
    "ADF p-value": "round(adf_p_value, 4)",
    "Half-life, bars": "half_life",
    "Hurst exponent": "hurst",
    "Variance ratio": "variance_ratio",
    "Volatility of Y, bp": "volatility_y * 10000",
    "Volatility of X, bp": "volatility_x * 10000",
}
"""SQL of each statistic of the summary by its name there."""


def dashboard() -> Json:
    """Return the dashboard."""
    name = "concat('of ', concat(${y:singlequote}, '/', ${x:singlequote}), ' at ', ${timeframe:singlequote})"
    panels = {
        1: data_panel("pairflow-pair", sql("pair/stored"), name),
        2: _now(),
        17: _prices(),
        3: _candles("y", "Y", LEG_Y),
        4: _candles("x", "X", LEG_X),
        5: _z_score(),
        6: _signals(),
        7: _spread(),
        8: _hedge_ratio(),
        9: _correlation(),
        10: _stationarity(),
        11: _half_life(),
        12: _volatility(),
        13: _price_change(),
        14: _returns(),
        15: _summary(),
        16: _volume(),
    }
    candles = ["Y: ${y}", "X: ${x}"]
    return framed(
        "pairflow-pair",
        "Pair",
        "One pair: prices, spread, z-score, cointegration and signals.",
        panels,
        variables(pair=True),
        annotations=[
            annotation("Entries (up to 12)", "purple", sql("pair/entries"), ["Spread", *candles]),
            annotation("Missing trades", "red", sql("pair/missing_trades"), candles),
        ],
    )


def _now() -> Json:
    return tiles(
        "Now",
        "At the end of the time range. Short: sell Y, buy hedge ratio times X; long: the other way round."
        " Cointegration is the augmented Dickey-Fuller test of the spread: where it does not reject a unit"
        " root, the spread may never come back.",
        (19, 4),
        sql("pair/now", p_value="p", advice=""),
        fields="/^(?!p$).*/",
        sizes={"titleSize": 13, "valueSize": 17},
        overrides=[
            override("Spread is", mappings=POSITIONS),
            override(
                "z-score",
                decimals=2,
                thresholds=thresholds((None, SHORT), (-Z_ENTRY, "text"), (Z_ENTRY, SHORT)),
            ),
            override("Hedge ratio", decimals=5),
            override(
                "/Correlation|of returns/",
                decimals=3,
                thresholds=thresholds((None, BAD), (CORRELATED, "text")),
            ),
            override("Cointegration", mappings=ADF_READINGS),
            override("Half-life", unit="s", decimals=1),
        ],
    )


def _prices() -> Json:
    return tiles(
        "Prices",
        "Of both legs in the time range: the last price, its change, and volume in the quote asset.",
        (24, 3),
        sql("pair/prices"),
        sizes={"titleSize": 13, "valueSize": 17},
        overrides=[
            override("Price of Y", displayName="${y}"),
            override("Price of X", displayName="${x}"),
            override(
                "/^Change/",
                displayName="change",
                unit="percent",
                decimals=2,
                thresholds=thresholds((None, SHORT), (0, LONG)),
            ),
            override("/^Volume/", displayName="volume", unit="short"),
        ],
    )


def _candles(variable: str, name: str, color: str) -> Json:
    text = sql("candles", symbol=f"${{{variable}:singlequote}}")
    fields = ("open", "high", "low", "close", "volume")
    return panel(
        "candlestick",
        f"{name}: ${{{variable}}}",
        "Price in the quote asset and volume in the base asset, by bar; longer time ranges join bars.",
        (12, 10),
        [table_query(text)],
        {
            "mode": "candles+volume",
            "candleStyle": "candles",
            "colorStrategy": "open-close",
            "colors": {"up": "green", "down": "red", "flat": "gray"},
            "fields": {field: field for field in fields},
            "includeAllFields": False,
            "legend": HIDDEN_LEGEND,
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        empty=NO_BARS,
        custom={"axisBorderShow": False, "axisColorMode": "text"},
        overrides=[override("volume", unit="short", custom__fillOpacity=30, color=fixed(color))],
        interval="1s",
        maxDataPoints=240,
    )


def _z_score() -> Json:
    mark = {"custom__drawStyle": "points", "custom__showPoints": "always", "custom__pointSize": 9}
    level = {
        "custom__hideFrom": {"legend": True, "tooltip": True, "viz": False},
        "custom__lineStyle": DASHED,
    }
    return time_series(
        "z-score of the spread",
        "How many standard deviations the spread is from its mean. Beyond the outer lines (PAIRFLOW_Z_ENTRY)"
        " the spread is entered, within the inner ones (PAIRFLOW_Z_EXIT) it is left; dots are the signals"
        " the pipeline gave. Over long time ranges each point is the last z-score of its stretch.",
        (24, 10),
        [series_query(sql("pair/z_score")), series_query(sql("pair/z_score_signals"), "B")],
        decimals=2,
        overrides=[
            override("z-score", color=fixed(Z_SCORE), custom__lineWidth=2, displayName="z-score"),
            *(override(name, color=fixed(BAD), **level) for name in ("entry", "-entry")),
            *(override(name, color=fixed(QUIET), **level) for name in ("exit", "-exit")),
            override("short", color=fixed(SHORT), displayName="short", **mark),
            override("long", color=fixed(LONG), displayName="long", **mark),
            override("flat", color=fixed(QUIET), displayName="flat", **mark),
        ],
        calcs=(),
    )


def _signals() -> Json:
    return timeline(
        "Signals of this pair by timeframe and window: red short, green long, gray flat",
        "Short the spread: sell Y, buy X by the hedge ratio. Long: the other way round.",
        (24, 5),
        sql("pair/signals"),
        empty_text="No statistics: is the flow running?",
        empty=NO_STATISTICS,
        mappings=POSITIONS,
    )


def _spread() -> Json:
    band = {"color": fixed(QUIET), "custom__lineStyle": DASHED}
    right = {"custom__axisPlacement": "right", "custom__lineWidth": 1}
    return time_series(
        "Spread",
        "Left: the spread less its mean over the z-score's window, and the bands at which the z-score"
        " enters. Right: the spread Y - hedge ratio * X itself and its mean, in units of Y's quote asset (of"
        " logarithms when the price scale is log); they move with the hedge ratio.",
        (12, 9),
        [series_query(sql("pair/spread"))],
        overrides=[
            override("spread less its mean", color=fixed(Z_SCORE), custom__lineWidth=2),
            override("entry above", custom__fillBelowTo="entry below", custom__fillOpacity=10, **band),
            override("entry below", **band),
            override("spread", color=fixed("light-blue"), **right),
            override("mean", color=fixed(QUIET), **right),
        ],
        calcs=(),
    )


def _hedge_ratio() -> Json:
    quiet = {
        "color": fixed(QUIET),
        "custom__lineWidth": 0,
        "custom__hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }
    return time_series(
        "Hedge ratio",
        "Units of X against one unit of Y, by every method the flow computes (PAIRFLOW_METHODS), with the 95"
        " % band of the chosen method where it has a standard error.",
        (12, 9),
        [series_query(sql("pair/hedge_ratio_by_method")), series_query(sql("pair/hedge_ratio_band"), "B")],
        overrides=[
            override(
                "95 % above",
                custom__fillBelowTo="95 % below",
                custom__fillOpacity=12,
                displayName="95 % above",
                **quiet,
            ),
            override("95 % below", displayName="95 % below", **quiet),
        ],
        displayName="${__field.labels.series}",  # with several queries Grafana would show their letters too
    )


def _correlation() -> Json:
    return time_series(
        "Correlation",
        f"Pearson's, over the window: of prices, and of returns from bar to bar. Below {CORRELATED} (the"
        " dashed line) an alert fires.",
        (12, 8),
        [series_query(sql("pair/correlation"))],
        {**LINE, "thresholdsStyle": {"mode": "dashed"}},
        max=1,
        decimals=3,
        thresholds=thresholds((None, "transparent"), (CORRELATED, WARN)),
        overrides=[
            override("of prices", color=fixed("semi-dark-blue")),
            override("of returns", color=fixed("light-blue")),
        ],
    )


def _stationarity() -> Json:
    unbounded = {"min": None, "max": None}
    return time_series(
        "Stationarity of the spread",
        "Augmented Dickey-Fuller test over the window. Left: MacKinnon's p-value; below the line at"
        f" {SIGNIFICANT} the spread is stationary at 5 %, above it do not trade. Right: the test's"
        f" statistic; the more negative, the better (asymptotic 5 % value: {DICKEY_FULLER_5}).",
        (12, 8),
        [series_query(sql("pair/stationarity"))],
        {**LINE, "thresholdsStyle": {"mode": "line+area"}},
        min=0,
        max=1,
        decimals=3,
        thresholds=thresholds((None, "rgba(86, 166, 75, 0.25)"), (SIGNIFICANT, "transparent")),
        overrides=[
            override("p-value", color=fixed(Z_SCORE), custom__lineWidth=2),
            override(
                "ADF statistic",
                color=fixed(QUIET),
                custom__axisPlacement="right",
                custom__thresholdsStyle={"mode": "off"},
                **unbounded,
                decimals=2,
            ),
        ],
    )


def _half_life() -> Json:
    return time_series(
        "Half-life",
        "How long the spread takes to go half the way back to its mean (Ornstein-Uhlenbeck). A gap: it does"
        " not revert.",
        (8, 7),
        [series_query(sql("pair/half_life"))],
        {**LINE, "scaleDistribution": {"type": "log", "log": 10}},
        unit="s",
        color=fixed(Z_SCORE),
    )


def _volatility() -> Json:
    return time_series(
        "Volatility, annualised",
        "Standard deviation of returns over the window, times the square root of the bars in a year of 365"
        " days.",
        (8, 7),
        [series_query(sql("pair/volatility"))],
        unit="percentunit",
        overrides=_LEGS_NAMED,
    )


def _price_change() -> Json:
    return time_series(
        "Price change",
        "Both legs, since the beginning of the time range.",
        (8, 7),
        [series_query(sql("pair/price_change"))],
        unit="percent",
        decimals=2,
        overrides=_LEGS_NAMED,
        empty=NO_BARS,
    )


def _returns() -> Json:
    # This kind of panel cannot say why it is empty: the name of its axis does.
    name_of_axis = {
        "configRefId": "B",
        "applyTo": {"id": "byName", "options": "Return of X"},
        "mappings": [{"fieldName": "label", "handlerKey": "displayName"}],
    }
    return panel(
        "xychart",
        "Returns of Y over returns of X",
        "A point for each bar in the time range (bars are joined where there are more than a thousand), with"
        " the line of least squares through them. The nearer the points lie to the line, the better X hedges"
        " Y from bar to bar.",
        (9, 18),
        [table_query(sql("pair/returns")), table_query(sql("pair/returns_label"), "B")],
        {
            "mapping": "auto",
            "series": [],
            "legend": HIDDEN_LEGEND,
            "tooltip": {"mode": "single", "sort": "none"},
        },
        empty=NO_BARS,
        custom={"show": "points", "pointSize": {"fixed": 4}, "fillOpacity": 50, "axisBorderShow": False},
        unit="percent",
        color=fixed(Z_SCORE),
        overrides=[
            override("Return of Y", custom__axisLabel="Y: ${y}"),
            override("regression", custom__show="lines", custom__lineWidth=2, color=fixed(BAD)),
        ],
        transformations=[{"id": "configFromData", "options": name_of_axis}],
        interval="1s",
        maxDataPoints=1000,
    )


def _summary() -> Json:
    text = sql(
        "pair/summary",
        columns=", ".join(f"('{name}', {column})" for name, column in _SUMMARY.items()),
        names=quoted(*_SUMMARY),
        correlated=CORRELATED,
        dickey_fuller_5=DICKEY_FULLER_5,
        p_value="latest",
        advice=": do not trade",
    )
    return table(
        "Summary",
        "Every statistic of the pair at the end of the time range, and what it was within the range.",
        (15, 18),
        [table_query(text)],
        empty=NO_STATISTICS,
        overrides=[
            override("Reading", custom__width=140, custom__wrapText=True),
            override("Statistic", custom__width=155),
        ],
    )


def _volume() -> Json:
    return time_series(
        "Volume",
        "Quote asset, of both legs, by bar.",
        (24, 6),
        [series_query(sql("pair/volume"))],
        BARS,
        unit="short",
        overrides=_LEGS_NAMED,
        empty=NO_BARS,
        maxDataPoints=400,
        calcs=("sum",),
    )
