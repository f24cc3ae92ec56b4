"""Write the dashboards: ``python -m grafana.build_dashboards`` fills ``grafana/dashboards/``.

Grafana loads the JSON; this is where it is edited. What holds for all of it:

* Grafana sees times, numbers and texts: undefined statistics (NaN, inf) become NULL, and Bool a number.
* Every query bounds the leading columns of a sorting key and a stretch of time, or reads a table that is small
  by nature. Points are gathered in whole bars, into about as many as the panel has room for.
* A column's alias is never the name of a column of the table (``"Time"``, not ``time``): ClickHouse would put
  the alias into WHERE, and the index would not be used.
* Tables are read with FINAL, as the views do that show each row once: through the view a panel of one pair takes
  10 ms, so 7 (chDB 4.4, 10 million rows).
* An empty panel says what would fill it.
"""
# ruff: noqa: E501, RUF001, S608 - tables of panels, texts for people, and SQL that is put together from parts

import json
import re
from pathlib import Path
from typing import Any

from flows.settings import Settings

FOLDER = Path(__file__).parent / "dashboards"

Json = dict[str, Any]

_PLUGIN_VERSION = "4.20.0"
_SCHEMA_VERSION = 42  # of Grafana 12.3 and 13.2
# Without it Grafana takes a panel's options for those of its oldest version, and makes others of them.
_PANEL_VERSION = "12.3.3"

CLICKHOUSE = {"type": "grafana-clickhouse-datasource", "uid": "clickhouse"}
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
GRAFANA = {"type": "grafana", "uid": "grafana"}
"""Grafana's own store, in every Grafana."""

Z_ENTRY = float(Settings.model_fields["z_entry"].default)
Z_EXIT = float(Settings.model_fields["z_exit"].default)
SIGNIFICANT = 0.05
"""ADF p-value below which a spread counts as stationary, as in the view pair_ranking."""
CORRELATED = 0.7
"""Correlation below which a pair is no longer one, as in the alert on it."""
LAG_SECONDS = 10
"""From a bar's end to when it is stored: above this the lag is high, as in the alert on it."""
STALE_SECONDS = 30
"""Live data are stale without a bar for so long, or for three bars."""
WEIGHT_LIMIT = 6000
"""Request weight that the exchange allows a minute (spot)."""
DICKEY_FULLER = {"1 %": -3.43, "5 %": -2.86, "10 %": -2.57}
"""Asymptotic critical values, constant and no trend (MacKinnon, Critical Values for Cointegration Tests, 2010)."""

# Each leg has its colour, everywhere.
_Y, _X, _Z, _QUIET = "blue", "orange", "purple", "#8e8e8e"
_SHORT, _LONG, _FLAT = "red", "green", "#808080"
_GOOD, _WARN, _BAD = "green", "orange", "red"

_UPDATE = "Is the flow running? Start it with make run, or make demo without a network."
_NO_STATISTICS = (
    "No statistics of this pair, timeframe, window and method in this time range. "
    + _UPDATE
    + " A replay lies"
    " at its own dates: the link in the panel Data goes there."
)
_NO_ANSWER = "No answer from the store. " + _UPDATE
_RED = " (A red corner: the store does not answer.)"
_NO_BARS = "No bars in this time range. " + _UPDATE
_NO_SAMPLES = "The flow has written nothing about itself in this time range. " + _UPDATE


# ---------------------------------------------------------------------------------------------------- SQL

_LEGS = "concat(${y:singlequote}, '/', ${x:singlequote})"
_SELECTION = (
    "m.market = ${market:singlequote}",
    "m.timeframe = ${timeframe:singlequote}",
    "m.window = toUInt32OrZero(${window:singlequote})",
)
_METHOD = "m.method = ${method:singlequote}"
_ALL_PAIRS = " AND ".join([*_SELECTION, _METHOD])
_ALL_METHODS = " AND ".join([_SELECTION[0], f"m.pair = {_LEGS}", *_SELECTION[1:]])
_PAIR = f"{_ALL_METHODS} AND {_METHOD}"
_ENTRY = "toFloat64OrZero(${z_entry:singlequote})"
_EXIT = "toFloat64OrZero(${z_exit:singlequote})"
_BAR_MS = "toInt64OrZero(${bar_ms:singlequote})"


def _sql(text: str) -> str:
    """Strip the indentation that the SQL has in this file."""
    lines = text.strip("\n").splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines).rstrip()


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in text.splitlines())


def _bucket(column: str) -> str:
    """Start of what a point stands for: as many whole bars as make about one point a pixel."""
    return (
        f"toStartOfInterval({column}, toIntervalMillisecond("
        f"intDiv($__interval_ms + {_BAR_MS} - 1, {_BAR_MS}) * {_BAR_MS}))"
    )


def _last(column: str) -> str:
    """Last defined value of a point, NULL where there is none."""
    return f"argMaxOrNullIf(m.{column}, m.time, isFinite(m.{column}))"


def _statistics(columns: dict[str, str], where: str = _PAIR, series: str = "") -> str:
    """Return statistics over time: a column each, or one column "Value" with a series for each text of `series`.

    Grafana then calls a series by that text alone.
    """
    select = [f'{_bucket("m.time")} AS "Time"', *([f"{series} AS series"] if series else [])]
    select += [f'{expression} AS "{name}"' for name, expression in columns.items()]
    return (
        "SELECT\n    "
        + ",\n    ".join(select)
        + f"\nFROM stored_pair_metrics AS m FINAL\nWHERE {where}\n    AND $__timeFilter_ms(m.time)\n"
        + f'GROUP BY "Time"{", series" if series else ""}\nORDER BY "Time"'
    )


def _bars(columns: dict[str, str], symbols: str, series: bool = False) -> str:
    """Bars over time, with the columns of `_statistics`."""
    select = [f'{_bucket("b.open_time")} AS "Time"', *(["b.symbol AS series"] if series else [])]
    select += [f'{expression} AS "{name}"' for name, expression in columns.items()]
    return (
        "SELECT\n    "
        + ",\n    ".join(select)
        + "\nFROM stored_bars AS b FINAL\nWHERE b.market = ${market:singlequote} AND "
        + (f"b.symbol IN ({symbols}) AND " if symbols else "")
        + "b.timeframe = ${bars:singlequote}\n    AND $__timeFilter_ms(b.open_time)\n"
        + f'GROUP BY "Time"{", series" if series else ""}\nORDER BY "Time"'
    )


def _gauge(samples: dict[str, str]) -> str:
    """Return samples of the pipeline's gauges over time, a series each, by the names they are shown under."""
    names = ", ".join(f"'{name}'" for name in samples)
    shown = ", ".join(f"'{label}'" for label in samples.values())
    return _sql(f"""
        SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS "Time",
            transform(s.name, [{names}], [{shown}], '') AS series,
            max(s.value) AS "Value"
        FROM pipeline_metrics AS s
        WHERE s.name IN ({names}) AND $__timeFilter_ms(s.time) AND isFinite(s.value)
        GROUP BY "Time", series
        ORDER BY "Time", series
    """)


def _growth(counter: str, series: str, value: str, per: str = "") -> str:
    """Growth of one of the pipeline's counters over time: a second, or for each unit of another counter.

    A restart sets counters back to 0: what they show then has grown since.
    """
    names = f"'{counter}'" + (f", '{per}'" if per else "")
    seconds = 'dateDiff(\'millisecond\', lagInFrame("Time") OVER w, "Time") / 1000'
    divisor = "if(b < lagInFrame(b) OVER w, b, b - lagInFrame(b) OVER w)" if per else seconds
    return _sql(f"""
        SELECT "Time", series, {value} AS "Value"
        FROM
        (
            SELECT "Time", series, row_number() OVER w AS place,
                if(a < lagInFrame(a) OVER w, a, a - lagInFrame(a) OVER w) AS increase,
                {divisor} AS divisor
            FROM
            (
                SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS "Time",
                    {series} AS series, maxIf(s.value, s.name = '{counter}') AS a,
                    maxIf(s.value, s.name != '{counter}') AS b
                FROM pipeline_metrics AS s
                WHERE s.name IN ({names}) AND $__timeFilter_ms(s.time)
                GROUP BY "Time", series
            )
            WINDOW w AS (PARTITION BY series ORDER BY "Time" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
        )
        WHERE place > 1 AND divisor > 0
        ORDER BY "Time", series
    """)


def _ends(where: str) -> str:
    """Return the first and last times of what is stored of a pair, or of all pairs: one row.

    Only the ends are read: the newest of a small table, the oldest by the sorting key.

    :arg where: SQL condition on ``l``, the newest rows of the pairs.
    """
    return _sql(f"""
        SELECT
            ifNull(toUnixTimestamp64Micro((
                SELECT m.time FROM stored_pair_metrics AS m WHERE {_PAIR} ORDER BY m.time LIMIT 1)), 0) AS first,
            toUnixTimestamp64Micro(max(l.time)) AS last, anyLast(l.source) AS source
        FROM stored_latest_pair_metrics AS l
        WHERE {where}
    """)


def _freshness(newest: str, subject: str, bar_ms: str) -> str:
    """One row about how fresh the data are, always; with the stretch of time that is stored, for a link to it.

    :arg newest: query of one row: first and last times (us, 0 for none), and the source.
    :arg subject: SQL text naming what is looked for.
    :arg bar_ms: SQL number, length of a bar.
    """
    return _sql(f"""
        WITH
            source IN ('binance', 'simulator') AS live,
            (toUnixTimestamp64Micro(now64(6)) - last) / 1e6 - {bar_ms} / 1000 AS age,
            formatDateTime(fromUnixTimestamp64Micro(last), '%Y-%m-%d %H:%i:%S') AS until
        SELECT
            multiIf(
                last = 0, concat('No bars ', if(${{market:singlequote}} = '', '', concat({subject}, ' ')),
                    'are stored yet. {_UPDATE}'),
                live AND age > greatest({STALE_SECONDS}, 3 * {bar_ms} / 1000),
                    concat('No bars for ', formatReadableTimeDelta(age), ': is the flow running?'),
                live, concat(if(source = 'simulator', 'SIMULATED prices', 'Live'), ', newest bar ',
                    toString(greatest(0, round(age))), ' s old'),
                last < toUnixTimestamp64Micro(toDateTime64($__fromTime_ms, 6))
                    OR first > toUnixTimestamp64Micro(toDateTime64($__toTime_ms, 6)),
                    concat('Outside this time range: the ', source, ' ends ', until, ' UTC. Click to go there.'),
                concat('Replay of a ', source, ', up to ', until, ' UTC')) AS "Data",
            intDiv(first, 1000) AS "from",
            intDiv(last, 1000) + 1000 AS "to"
        FROM ({newest})
    """)


# ------------------------------------------------------------------------------------------------- panels


def _query(sql: str, ref: str = "A", table: bool = False) -> Json:
    """Return a query of ClickHouse: a table, or time series with a series for each text."""
    return {
        "refId": ref,
        "datasource": CLICKHOUSE,
        "editorType": "sql",
        "queryType": "table" if table else "timeseries",
        "format": 1 if table else 0,
        "pluginVersion": _PLUGIN_VERSION,
        "meta": {},
        "rawSql": sql,
    }


# Of no rows Grafana would draw headers alone. Put into one frame for each value of a column that is the same in all
# rows, no rows are no frame, and the panel says why.
_ONE_FRAME: Json = {
    "id": "partitionByValues",
    "options": {"fields": ["one_frame"], "keepFields": False, "naming": {"asLabels": False}},
}


def _rows(sql: str) -> Json:
    """Return a query of rows, for a panel that transforms them by `_ONE_FRAME`."""
    return _query(re.sub(r"^(\s*)SELECT\b", r"\1SELECT '' AS one_frame,", sql), table=True)


def _promql(expr: str, legend: str, ref: str = "A") -> Json:
    return {
        "refId": ref,
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": expr,
        "legendFormat": legend,
        "range": True,
    }


def _steps(*steps: tuple[float | None, str]) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def _override(field: str, **properties: Any) -> Json:
    """Return an override of a field, or of those that match /a pattern/; ``custom__x`` stands for custom.x."""
    matcher = "byRegexp" if field.startswith("/") else "byName"
    return {
        "matcher": {"id": matcher, "options": field},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def _values(**texts: tuple[str, str]) -> list[Json]:
    """Return a mapping of values to texts and colours; names begin with ``_`` where they are no identifiers."""
    options = {
        value.lstrip("_").replace("minus", "-"): {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def _patterns(*patterns: tuple[str, str]) -> list[Json]:
    """Return a mapping that colours texts by pattern and leaves them as they are."""
    return [
        {"type": "regex", "options": {"pattern": pattern, "result": {"color": color, "index": index}}}
        for index, (pattern, color) in enumerate(patterns)
    ]


_POSITIONS = _values(minus1=("SHORT", _SHORT), _0=("flat", _FLAT), _1=("LONG", _LONG))
_FRESH = _patterns(
    ("^(No |Outside).*", _BAD), ("^Live.*", _GOOD), ("^SIMULATED.*", "purple"), ("^Replay.*", "blue")
)
_READINGS = _patterns(
    ("^stationary.*", _GOOD), ("^weak.*", _WARN), ("^not stationary.*", _BAD), (".*", _FLAT)
)


def _reading(p_value: str, advice: str = ": do not trade") -> str:
    """Say in words what an ADF p-value (NULL: unknown) means."""
    return (
        f"multiIf({p_value} IS NULL, 'not known yet', {p_value} < 0.01, 'stationary at 1 %', "
        f"{p_value} < {SIGNIFICANT}, 'stationary at 5 %', {p_value} < 0.1, 'weak: at 10 % only', "
        f"'not stationary{advice}')"
    )


def _panel(
    kind: str,
    title: str,
    description: str,
    size: tuple[int, int],
    queries: list[Json],
    options: Json,
    *,
    empty: str,
    custom: Json | None = None,
    overrides: list[Json] | None = None,
    **more: Any,
) -> Json:
    """Return a panel; names that Grafana's field options have go there, others to the panel.

    :arg size: width in 24ths of the page, height in units of some 38 px.
    :arg empty: what the panel says when its queries have no rows.
    """
    defaults: Json = {"custom": custom or {}, "noValue": empty}
    for name in ("unit", "decimals", "min", "max", "color", "thresholds", "mappings", "links", "displayName"):
        if name in more:
            defaults[name] = more.pop(name)
    sources = {json.dumps(query["datasource"]) for query in queries}
    return {
        "type": kind,
        "pluginVersion": _PANEL_VERSION,
        "title": title,
        "description": description,
        "datasource": json.loads(sources.pop()) if len(sources) == 1 else None,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": queries,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": overrides or []},
        **more,
    }


_LINE: Json = {
    "drawStyle": "line",
    "lineWidth": 1,
    "fillOpacity": 0,
    "showPoints": "never",
    "spanNulls": False,
    "axisBorderShow": False,
}
_BARS: Json = {
    "drawStyle": "bars",
    "lineWidth": 0,
    "fillOpacity": 70,
    "stacking": {"mode": "normal", "group": "A"},
    "showPoints": "never",
}
_DASHED: Json = {"fill": "dash", "dash": [6, 6]}
_NO_LEGEND = {"legend": True, "tooltip": False, "viz": False}


def _legend(*calcs: str) -> Json:
    return {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": list(calcs)}


def _series(
    title: str,
    description: str,
    size: tuple[int, int],
    queries: list[Json],
    custom: Json = _LINE,
    **more: Any,
) -> Json:
    """Return a panel of time series."""
    options = {
        "legend": _legend(*more.pop("calcs", ("lastNotNull",))),
        "tooltip": {"mode": "multi", "sort": more.pop("sort", "none")},
    }
    settings: Json = {"interval": "100ms", "maxDataPoints": 1200, "empty": _NO_STATISTICS} | more
    return _panel("timeseries", title, description, size, queries, options, custom=custom, **settings)


def _tiles(title: str, description: str, size: tuple[int, int], sql: str, **more: Any) -> Json:
    """Return a row of tiles, one for each column of the query's one row."""
    options = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": more.pop("fields", "/.*/")},
        "colorMode": more.pop("color_mode", "value"),
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "vertical",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "textMode": more.pop("text_mode", "value_and_name"),
        "wideLayout": False,
        **({"text": more.pop("text")} if "text" in more else {}),
    }
    settings: Json = {
        "empty": _NO_ANSWER,
        "color": {"mode": "thresholds"},
        "thresholds": _steps((None, "text")),
    } | more
    overrides = [_override("/.*/", noValue="–"), *settings.pop("overrides", [])]
    return _panel(
        "stat", title, description, size, [_rows(sql)], options, overrides=overrides,
        transformations=[_ONE_FRAME], **settings,
    )  # fmt: skip


def _table(title: str, description: str, size: tuple[int, int], sql: str, **more: Any) -> Json:
    """Return a table."""
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "frameIndex": 0,
        "sortBy": [{"displayName": name, "desc": desc} for name, desc in more.pop("sort_by", ())],
    }
    custom = {
        "align": "auto",
        "cellOptions": {"type": "auto"},
        "inspect": False,
        "filterable": False,
        "minWidth": 60,
        "wrapHeaderText": True,
    }
    overrides = [
        _override("/.*/", noValue="–"),
        # Where the times are close together, Grafana would show milliseconds.
        _override(
            "/^(At|Noticed|Started|Hour|Written)$/", custom__width=170, unit="time:YYYY-MM-DD HH:mm:ss"
        ),
        _override("/^Pair$/", custom__width=150),
        *more.pop("overrides", []),
    ]
    return _panel(
        "table", title, description, size, [_rows(sql)], options, custom=custom,
        overrides=overrides, transformations=[_ONE_FRAME, *more.pop("transformations", [])], **more,
    )  # fmt: skip


def _data(uid: str, newest: str, subject: str, bar_ms: str) -> Json:
    """Return the panel that says how fresh the data are; the rest is as for `_freshness`.

    :arg uid: of the dashboard it stands in.
    """
    panel = _table(
        "Data",
        "Whether what is shown is fresh. A click goes to the time that is stored.",
        (5, 4),
        _freshness(newest, subject, bar_ms),
        empty="No answer from the store: is the flow running?",
        overrides=[
            _override(
                "Data",
                mappings=_FRESH,
                links=[_link("Show the stored time", uid, _TO_STORED)],
                custom__cellOptions={"type": "color-text"},
                custom__wrapText=True,
            ),
            _override("/^(from|to)$/", custom__hideFrom__viz=True),
        ],
    )
    panel["options"]["showHeader"] = False
    return panel


def _or_say(sql: str, text: str) -> str:
    """Return a timeline that says why it is empty, as the name of a row: Grafana would speak of missing fields."""
    return _sql(f"""
        SELECT row.1 AS "Time", row.2 AS series, row.3 AS "Value"
        FROM
        (
            SELECT groupArray(("Time", series, "Value")) AS found
            FROM
            (
{_indented(sql, 16)}
            )
        )
        ARRAY JOIN if(empty(found), [(toDateTime64($__fromTime_ms, 6), '{text}', 0), (toDateTime64($__toTime_ms, 6), '{text}', 0)], found) AS row
        ORDER BY "Time", series
    """)


def _timeline(title: str, description: str, size: tuple[int, int], sql: str, **more: Any) -> Json:
    """Return a timeline of states, given as numbers, a row for each series; 0 is none of them."""
    options = {
        "alignValue": "center",
        "legend": {**_legend(), "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": more.pop("show", "never"),
        "tooltip": {"mode": "single", "sort": "none"},
        **({"perPage": more.pop("per_page")} if "per_page" in more else {}),
    }
    custom = {"fillOpacity": 75, "lineWidth": 0, "spanNulls": True}
    # By thresholds Grafana would show ranges of numbers instead of the mapped texts.
    settings: Json = {"color": _fixed(_FLAT)} | more
    return _panel(
        "state-timeline",
        title,
        description,
        size,
        [_query(_or_say(sql, settings.pop("say")))],
        options,
        custom=custom,
        **settings,
    )


def _text(title: str, content: str, size: tuple[int, int]) -> Json:
    options = {
        "mode": "markdown",
        "code": {"language": "plaintext", "showLineNumbers": False, "showMiniMap": False},
    }
    return {
        "type": "text",
        "title": title,
        "description": "",
        "gridPos": {"w": size[0], "h": size[1]},
        "options": {**options, "content": content},
    }


def _row(title: str, panels: dict[int, Json] | None = None) -> Json:
    """Return a headline; with panels, by their numbers, one that is closed at first."""
    return {
        "type": "row",
        "title": title,
        "gridPos": {"w": 24, "h": 1},
        "collapsed": panels is not None,
        "panels": _placed(panels or {}, 1),
    }


# ---------------------------------------------------------------------------------------------- variables


def _variable(name: str, label: str, sql: str, *, hide: int = 0, current: str = "") -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": CLICKHOUSE,
        "query": {"refId": "var", "queryType": "sql", "rawSql": _sql(sql)},
        "refresh": 1,
        "sort": 0,
        "hide": hide,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": hide == 2 and name not in ("market", "y", "x", "timeframe", "window", "method"),
        **({"current": {"text": current, "value": current}} if current else {}),
    }


_LENGTH = (
    "if({0} = 'tick', 100, toInt64OrZero(extract({0}, '^[0-9]+')) * "
    "transform(extract({0}, '[a-z]+$'), ['s', 'm', 'h', 'd'], [1000, 60000, 3600000, 86400000], 1000))"
)


def _variables(pair: bool, selection: bool = True) -> list[Json]:
    """Return the variables that all dashboards have, so that links carry them; hidden where they do nothing.

    :arg pair: whether the pair can be chosen.
    :arg selection: whether timeframe, window and method can be.
    """
    hide, hide_more = (0 if pair else 2), (0 if selection else 2)
    # In the order of the last run's settings, so that its first pair is shown first.
    last_run = "(SELECT argMax(pairs, started) FROM runs WHERE market = ${market:singlequote})"
    order = f"min(if(has({last_run}, pair), indexOf({last_run}, pair), 1000000))"
    known = "FROM stored_latest_pair_metrics WHERE market = ${market:singlequote}"
    length = _LENGTH.format("${timeframe:singlequote}")
    return [
        _variable("market", "Market", """
            SELECT market FROM runs GROUP BY market ORDER BY max(started) DESC
        """, hide=hide_more),
        _variable("y", "Y", f"SELECT y {known} GROUP BY y ORDER BY {order}, y", hide=hide),
        _variable("x", "X", f"""
            SELECT x {known} AND y = ${{y:singlequote}} GROUP BY x ORDER BY {order}, x
        """, hide=hide),
        _variable("timeframe", "Timeframe", f"""
            SELECT timeframe {known} GROUP BY timeframe ORDER BY {_LENGTH.format("timeframe")}
        """, hide=hide_more, current="1s"),
        _variable("window", "Window", f"""
            SELECT toString(window) AS bars {known} GROUP BY window ORDER BY window
        """, hide=hide_more, current="60"),
        _variable("method", "Method", f"""
            SELECT method {known} GROUP BY method
            ORDER BY indexOf(['ols', 'rls', 'kalman', 'tls'], method)
        """, hide=hide_more, current="ols"),
        # Ticks have no bars: the shortest are shown with them.
        _variable("bars", "Bars", f"""
            SELECT if(${{timeframe:singlequote}} != 'tick', ${{timeframe:singlequote}},
                (SELECT argMin(timeframe, {_LENGTH.format("timeframe")}) {known} AND timeframe != 'tick')) AS bars
        """, hide=2),
        _variable("bar_ms", "Length of a bar", f"SELECT toString(greatest({length}, 100)) AS ms", hide=2),
        _variable("z_entry", "z-score of an entry", f"""
            SELECT toString(if(JSONHas(argMax(settings, started) AS s, 'z_entry'),
                JSONExtractFloat(s, 'z_entry'), {Z_ENTRY})) AS z FROM runs
        """, hide=2),
        _variable("z_exit", "z-score of an exit", f"""
            SELECT toString(if(JSONHas(argMax(settings, started) AS s, 'z_exit'),
                JSONExtractFloat(s, 'z_exit'), {Z_EXIT})) AS z FROM runs
        """, hide=2),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- links


_CARRIED = ("market", "timeframe", "window", "method")


def _link(title: str, uid: str, more: str) -> Json:
    """Return a link to a dashboard that keeps the variables; ``more`` says where to."""
    kept = "&".join(f"var-{name}=${{{name}}}" for name in _CARRIED)
    if "var-y" not in more:
        kept += "&var-y=${y}&var-x=${x}"
    return {"title": title, "url": f"/d/{uid}?{kept}&{more}"}


_TO_PAIR = _link(
    "Open this pair", "pairflow-pair", "var-y=${__data.fields.y}&var-x=${__data.fields.x}&${__url_time_range}"
)


def _annotation(name: str, color: str, sql: str, titles: list[str]) -> Json:
    """Return marks on the panels of these titles."""
    return {
        "name": name,
        "datasource": CLICKHOUSE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "filter": {"exclude": False, "ids": titles},
        "target": {
            "refId": "annotation",
            "datasource": CLICKHOUSE,
            "editorType": "sql",
            "queryType": "table",
            "format": 1,
            "pluginVersion": _PLUGIN_VERSION,
            "rawSql": _sql(sql),
        },
    }


def _dashboard(
    uid: str,
    title: str,
    description: str,
    panels: dict[int, Json],
    variables: list[Json],
    annotations: list[Json] | None = None,
    hours: str = "15m",
    refresh: str = "5s",
) -> Json:
    """Return a dashboard.

    :arg panels: by their numbers, which alert rules and links know: a new panel gets one that was never used. They
        stand in lines, in their order.
    """
    numbers = {panel["title"]: number for number, panel in panels.items()}
    for annotation in annotations or []:
        annotation["filter"]["ids"] = [numbers[name] for name in annotation["filter"]["ids"]]
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["pairflow"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "liveNow": False,
        "time": {"from": f"now-{hours}", "to": "now"},
        "timezone": "utc",
        "weekStart": "",
        "refresh": refresh,
        "fiscalYearStartMonth": 0,
        "timepicker": {"refresh_intervals": ["1s", "2s", "5s", "10s", "30s", "1m", "5m", "15m"]},
        "links": [
            {
                "type": "dashboards",
                "title": "pairflow",
                "tags": ["pairflow"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": variables},
        "annotations": {"list": annotations or []},
        "panels": _placed(panels),
    }


def _placed(panels: dict[int, Json], top: int = 0) -> list[Json]:
    """Return panels from left to right and from top to bottom; a line is as high as its highest.

    :arg top: where the first line is, under that of a headline.
    """
    placed: list[Json] = []
    x, y, height = 0, top, 0
    for number, panel in panels.items():
        grid = panel["gridPos"]
        if x + grid["w"] > 24:
            x, y, height = 0, y + height, 0
        inside = [
            each | {"gridPos": each["gridPos"] | {"y": each["gridPos"]["y"] + y}}
            for each in panel.get("panels", ())
        ]
        more = {"panels": inside} if "panels" in panel else {}
        placed.append({"id": number, **panel, **more, "gridPos": {"x": x, "y": y, **grid}})
        x, height = x + grid["w"], max(height, grid["h"])
    return placed


# ------------------------------------------------------------------------------------------------- a pair


def _position(signal: str) -> str:
    """Return the position that a signal leads to, as a number: SQL."""
    return f"transform({signal}, ['short', 'long'], [-1, 1], 0)"


def _held(time: str) -> str:
    """Return the times between which a state that began at `time` may hold, in the time range: SQL."""
    return f"arrayJoin([greatest({time}, toDateTime64($__fromTime_ms, 6)), toDateTime64($__toTime_ms, 6)])"


def _pair_now() -> Json:
    """Return the tiles that say how the pair is, at the end of the time range."""
    sql = _sql(f"""
        SELECT
            (SELECT {_position("argMax(s.signal, s.time)")} FROM stored_signals AS s FINAL
                WHERE {_PAIR.replace("m.", "s.")} AND s.time <= $__toTime_ms) AS "Spread is",
            {_last("z_score")} AS "z-score",
            {_last("hedge_ratio")} AS "Hedge ratio",
            {_last("correlation")} AS "Correlation",
            {_last("return_correlation")} AS "of returns",
            {_reading("p", "")} AS "Cointegration",
            {_last("adf_p_value")} AS p,
            {_last("half_life")} * {_BAR_MS} / 1000 AS "Half-life"
        FROM stored_pair_metrics AS m FINAL
        WHERE {_PAIR}
            AND $__timeFilter_ms(m.time)
    """)
    z_steps = _steps((None, _SHORT), (-Z_ENTRY, "text"), (Z_ENTRY, _SHORT))
    return _tiles(
        "Now",
        "At the end of the time range. Short: sell Y, buy hedge ratio times X; long: the other way round."
        " Cointegration is the augmented Dickey-Fuller test of the spread: where it does not reject a unit root,"
        " the spread may never come back.",
        (19, 4),
        sql,
        fields="/^(?!p$).*/",
        text={"titleSize": 13, "valueSize": 17},
        overrides=[
            _override("Spread is", mappings=_POSITIONS),
            _override("z-score", decimals=2, thresholds=z_steps),
            _override("Hedge ratio", decimals=5),
            _override(
                "/Correlation|of returns/",
                decimals=3,
                thresholds=_steps((None, _BAD), (CORRELATED, "text")),
            ),
            _override("Cointegration", mappings=_READINGS),
            _override("Half-life", unit="s", decimals=1),
        ],
    )


def _prices() -> Json:
    """Return the tiles of both legs over the time range."""
    legs = {"Y": "b.symbol = ${y:singlequote}", "X": "b.symbol = ${x:singlequote}"}
    columns = ",\n            ".join(
        f"""toString(argMaxOrNullIf(b.close, b.open_time, {leg})) AS "Price of {name}",
            100 * (argMaxOrNullIf(b.close, b.open_time, {leg}) / argMinOrNullIf(b.open, b.open_time, {leg}) - 1)
                AS "Change of {name}",
            sumOrNullIf(b.quote_volume, {leg}) AS "Volume of {name}\""""
        for name, leg in legs.items()
    )
    sql = _sql(f"""
        SELECT
            {columns}
        FROM stored_bars AS b FINAL
        WHERE b.market = ${{market:singlequote}} AND b.symbol IN ({_BOTH}) AND b.timeframe = ${{bars:singlequote}}
            AND $__timeFilter_ms(b.open_time)
    """)
    return _tiles(
        "Prices",
        "Of both legs in the time range: the last price, its change, and volume in the quote asset.",
        (24, 3),
        sql,
        text={"titleSize": 13, "valueSize": 17},
        overrides=[
            _override("Price of Y", displayName="${y}"),
            _override("Price of X", displayName="${x}"),
            _override("/^Change/", displayName="change", unit="percent", decimals=2,
                      thresholds=_steps((None, _SHORT), (0, _LONG))),
            _override("/^Volume/", displayName="volume", unit="short"),
        ],
    )  # fmt: skip


def _candles(leg: str, name: str, color: str) -> Json:
    sql = _bars(
        {
            "open": "argMin(b.open, b.open_time)",
            "high": "max(b.high)",
            "low": "min(b.low)",
            "close": "argMax(b.close, b.open_time)",
            "volume": "sum(b.volume)",
        },
        f"${{{leg}:singlequote}}",
    )
    fields = {name: name for name in ("open", "high", "low", "close", "volume")}
    return _panel(
        "candlestick",
        f"{name}: ${{{leg}}}",
        "Price in the quote asset and volume in the base asset, by bar; longer time ranges join bars.",
        (12, 10),
        [_query(sql, table=True)],
        {
            "mode": "candles+volume",
            "candleStyle": "candles",
            "colorStrategy": "open-close",
            "colors": {"up": "green", "down": "red", "flat": "gray"},
            "fields": fields,
            "includeAllFields": False,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        empty=_NO_BARS,
        custom={"axisBorderShow": False, "axisColorMode": "text"},
        overrides=[_override("volume", unit="short", custom__fillOpacity=30, color=_fixed(color))],
        interval="1s",
        maxDataPoints=240,
    )


_BOTH = "${y:singlequote}, ${x:singlequote}"
_LEGS_SHOWN = [
    _override("Y", color=_fixed(_Y), displayName="${y}"),
    _override("X", color=_fixed(_X), displayName="${x}"),
]


def _change() -> Json:
    closes = {
        leg: f"argMaxOrNullIf(b.close, b.open_time, b.symbol = ${{{leg.lower()}:singlequote}})"
        for leg in "YX"
    }
    window = 'OVER (ORDER BY "Time" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)'
    sql = _sql(f"""
        SELECT "Time", 100 * ("Y" / first_value("Y") {window} - 1) AS "Y",
            100 * ("X" / first_value("X") {window} - 1) AS "X"
        FROM
        (
{_indented(_bars(closes, _BOTH), 12)}
        )
        ORDER BY "Time"
    """)
    return _series(
        "Price change",
        "Both legs, since the beginning of the time range.",
        (8, 7),
        [_query(sql)],
        unit="percent",
        decimals=2,
        overrides=_LEGS_SHOWN,
        empty=_NO_BARS,
    )


def _spread() -> Json:
    deviation = _last("spread_std")
    sql = _statistics(
        {
            "spread less its mean": f"{_last('spread')} - {_last('spread_mean')}",
            "entry above": f"{_ENTRY} * {deviation}",
            "entry below": f"-{_ENTRY} * {deviation}",
            "spread": _last("spread"),
            "mean": _last("spread_mean"),
        }
    )
    band = {"color": _fixed(_QUIET), "custom__lineStyle": _DASHED}
    right = {"custom__axisPlacement": "right", "custom__lineWidth": 1}
    return _series(
        "Spread",
        "Left: the spread less its mean over the z-score's window, and the bands at which the z-score enters. Right:"
        " the spread Y - hedge ratio * X itself and its mean, in units of Y's quote asset (of logarithms when the price"
        " scale is log); they move with the hedge ratio.",
        (12, 9),
        [_query(sql)],
        overrides=[
            _override("spread less its mean", color=_fixed(_Z), custom__lineWidth=2),
            _override("entry above", custom__fillBelowTo="entry below", custom__fillOpacity=10, **band),
            _override("entry below", **band),
            _override("spread", color=_fixed("light-blue"), **right),
            _override("mean", color=_fixed(_QUIET), **right),
        ],
        calcs=(),
    )


def _z_score() -> Json:
    lines = {"entry": _ENTRY, "-entry": f"-{_ENTRY}", "exit": _EXIT, "-exit": f"-{_EXIT}"}
    sql = _statistics(
        {"z-score": _last("z_score")} | {name: f"any({value})" for name, value in lines.items()}
    )
    marks = _sql(f"""
        SELECT m.time AS "Time",
            if(m.signal = 'short', m.z_score, NULL) AS "short",
            if(m.signal = 'long', m.z_score, NULL) AS "long",
            if(m.signal = 'exit', m.z_score, NULL) AS "flat"
        FROM stored_signals AS m FINAL
        WHERE {_PAIR}
            AND $__timeFilter_ms(m.time)
        ORDER BY m.time
    """)
    mark = {"custom__drawStyle": "points", "custom__showPoints": "always", "custom__pointSize": 9}
    hidden = {
        "custom__hideFrom": {"legend": True, "tooltip": True, "viz": False},
        "custom__lineStyle": _DASHED,
    }
    return _series(
        "z-score of the spread",
        "How many standard deviations the spread is from its mean. Beyond the outer lines (PAIRFLOW_Z_ENTRY) the spread"
        " is entered, within the inner ones (PAIRFLOW_Z_EXIT) it is left; dots are the signals the pipeline gave."
        " Over long time ranges each point is the last z-score of its stretch.",
        (24, 10),
        [_query(sql), _query(marks, "B")],
        decimals=2,
        overrides=[
            _override("z-score", color=_fixed(_Z), custom__lineWidth=2, displayName="z-score"),
            *(_override(name, color=_fixed(_BAD), **hidden) for name in ("entry", "-entry")),
            *(_override(name, color=_fixed(_QUIET), **hidden) for name in ("exit", "-exit")),
            _override("short", color=_fixed(_SHORT), displayName="short", **mark),
            _override("long", color=_fixed(_LONG), displayName="long", **mark),
            _override("flat", color=_fixed(_QUIET), displayName="flat", **mark),
        ],
        calcs=(),
    )


def _pair_signals() -> Json:
    sql = _sql(f"""
        SELECT "Time", series, argMax(position, since) AS "Value"
        FROM
        (
            SELECT {_held("m.time")} AS "Time", m.time AS since,
                concat(m.timeframe, ' × ', toString(m.window)) AS series, {_position("m.signal")} AS position
            FROM stored_signals AS m FINAL
            WHERE m.market = ${{market:singlequote}} AND m.pair = {_LEGS} AND {_METHOD} AND m.time <= $__toTime_ms
            UNION ALL
            SELECT {_held("toDateTime64(0, 6)")} AS "Time", toDateTime64(0, 6) AS since,
                concat(m.timeframe, ' × ', toString(m.window)) AS series, 0 AS position
            FROM stored_latest_pair_metrics AS m
            WHERE m.market = ${{market:singlequote}} AND m.pair = {_LEGS} AND {_METHOD} AND m.timeframe != 'tick'
        )
        GROUP BY "Time", series
        ORDER BY "Time", series
    """)
    return _timeline(
        "Signals of this pair by timeframe and window: red short, green long, gray flat",
        "Short the spread: sell Y, buy X by the hedge ratio. Long: the other way round.",
        (24, 5),
        sql,
        say="No statistics: is the flow running?",
        empty=_NO_STATISTICS,
        mappings=_POSITIONS,
    )


def _hedge_ratios() -> Json:
    by_method = _statistics({"Value": _last("hedge_ratio")}, _ALL_METHODS, "m.method")
    error = f"1.96 * {_last('hedge_ratio_stderr')}"
    band = _statistics(
        {
            "95 % above": f"{_last('hedge_ratio')} + {error}",
            "95 % below": f"{_last('hedge_ratio')} - {error}",
        }
    )
    quiet = {"color": _fixed(_QUIET), "custom__lineWidth": 0, "custom__hideFrom": _NO_LEGEND}
    return _series(
        "Hedge ratio",
        "Units of X against one unit of Y, by every method the flow computes (PAIRFLOW_METHODS), with the 95 % band of"
        " the chosen method where it has a standard error.",
        (12, 9),
        [_query(by_method), _query(band, "B")],
        overrides=[
            _override(
                "95 % above",
                custom__fillBelowTo="95 % below",
                custom__fillOpacity=12,
                displayName="95 % above",
                **quiet,
            ),
            _override("95 % below", displayName="95 % below", **quiet),
        ],
        displayName="${__field.labels.series}",  # of several queries Grafana would show the letters too
    )


def _scatter() -> Json:
    closes = _bars(
        {"close": "argMax(b.close, b.open_time)"}, "${y:singlequote}, ${x:singlequote}", series=True
    )
    returns = _sql(f"""
        SELECT maxIf(change, series = ${{x:singlequote}}) AS rx, maxIf(change, series = ${{y:singlequote}}) AS ry
        FROM
        (
            SELECT "Time", series, 100 * (close / lagInFrame(toNullable(close)) OVER w - 1) AS change
            FROM
            (
{_indented(closes, 16)}
            )
            WINDOW w AS (PARTITION BY series ORDER BY "Time" ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
        )
        WHERE change IS NOT NULL
        GROUP BY "Time"
        HAVING count() = 2
    """)
    # Without points an empty one: axes need it.
    sql = _sql(f"""
        SELECT point.1 AS "Return of X", point.2 AS "Return of Y", fit.1 * point.1 + fit.2 AS "regression"
        FROM
        (
            SELECT simpleLinearRegression(assumeNotNull(rx), assumeNotNull(ry)) AS fit,
                arraySort(groupArray((assumeNotNull(rx), ry))) AS points
            FROM
            (
{_indented(returns, 16)}
            )
        )
        ARRAY JOIN if(empty(points), [(0, NULL)], points) AS point
    """)
    label = _sql(f"""
        SELECT if(count() > 0, concat('X: ', ${{x:singlequote}}),
            'No returns in this time range: is the flow running?') AS label
        FROM
        (
{_indented(returns, 12)}
        )
    """)
    return _panel(
        "xychart",
        "Returns of Y over returns of X",
        "A point for each bar in the time range (bars are joined where there are more than a thousand), with the line"
        " of least squares through them. The nearer the points lie to the line, the better X hedges Y from bar to bar.",
        (9, 18),
        [_query(sql, table=True), _query(label, "B", table=True)],
        {
            "mapping": "auto",
            "series": [],
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        empty=_NO_BARS,
        custom={"show": "points", "pointSize": {"fixed": 4}, "fillOpacity": 50, "axisBorderShow": False},
        unit="percent",
        color=_fixed(_Z),
        overrides=[
            _override("Return of Y", custom__axisLabel="Y: ${y}"),
            _override("regression", custom__show="lines", custom__lineWidth=2, color=_fixed(_BAD)),
        ],
        # This kind of panel cannot say why it is empty: the name of its axis does.
        transformations=[
            {
                "id": "configFromData",
                "options": {
                    "configRefId": "B",
                    "applyTo": {"id": "byName", "options": "Return of X"},
                    "mappings": [{"fieldName": "label", "handlerKey": "displayName"}],
                },
            }
        ],
        interval="1s",
        maxDataPoints=1000,
    )


def _summary() -> Json:
    columns = {
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
    tuples = ", ".join(f"('{name}', {column})" for name, column in columns.items())
    names = ", ".join(f"'{name}'" for name in columns)
    sql = _sql(f"""
        SELECT name AS "Statistic", latest AS "Now", reading AS "Reading", mean AS "Mean", lowest AS "Lowest",
            highest AS "Highest"
        FROM
        (
            SELECT name, argMaxOrNullIf(v, at, isFinite(v)) AS latest, avgOrNullIf(v, isFinite(v)) AS mean,
                minOrNullIf(v, isFinite(v)) AS lowest, maxOrNullIf(v, isFinite(v)) AS highest,
                multiIf(
                    latest IS NULL, 'not known yet',
                    name = 'z-score' AND abs(latest) > {_ENTRY}, 'beyond an entry line',
                    name = 'z-score' AND abs(latest) < {_EXIT}, 'within the exit lines',
                    name IN ('Correlation', 'Correlation of returns'),
                        if(latest < {CORRELATED}, 'weak: the pair may part', 'strong'),
                    name = 'ADF statistic', '5 % lies at {DICKEY_FULLER["5 %"]}',
                    name = 'ADF p-value', {_reading("latest")},
                    name = 'Half-life, bars', formatReadableTimeDelta(latest * {_BAR_MS} / 1000),
                    name IN ('Hurst exponent', 'Variance ratio'),
                        multiIf(latest / if(name = 'Variance ratio', 2, 1) < 0.45, 'reverts',
                            latest / if(name = 'Variance ratio', 2, 1) > 0.55, 'trends', 'a random walk'),
                    '') AS reading
            FROM
            (
                SELECT m.time AS at, arrayJoin([{tuples}]) AS statistic, statistic.1 AS name, statistic.2 AS v
                FROM stored_pair_metrics AS m FINAL
                WHERE {_PAIR}
                    AND $__timeFilter_ms(m.time)
            )
            GROUP BY name
        )
        ORDER BY indexOf([{names}], name)
    """)
    return _table(
        "Summary",
        "Every statistic of the pair at the end of the time range, and what it was within the range.",
        (15, 18),
        sql,
        empty=_NO_STATISTICS,
        overrides=[
            _override("Reading", custom__width=140, custom__wrapText=True),
            _override("Statistic", custom__width=155),
        ],
    )


def pair_dashboard() -> Json:
    """Return the dashboard of one pair."""
    pair = f"concat('of ', {_LEGS}, ' at ', ${{timeframe:singlequote}})"
    newest = _ends(f"{_PAIR.replace('m.', 'l.')}")
    per_year = f"sqrt(31536000000 / {_BAR_MS})"
    correlations = {
        "of prices": _last("correlation"),
        "of returns": _last("return_correlation"),
    }
    statistic = {"ADF statistic": _last("adf_statistic")}
    panels = {
        1: _data("pairflow-pair", newest, pair, _BAR_MS),
        2: _pair_now(),
        17: _prices(),
        3: _candles("y", "Y", _Y),
        4: _candles("x", "X", _X),
        5: _z_score(),
        6: _pair_signals(),
        7: _spread(),
        8: _hedge_ratios(),
        9: _series(
            "Correlation",
            f"Pearson's, over the window: of prices, and of returns from bar to bar. Below {CORRELATED} (the dashed"
            " line) an alert fires.",
            (12, 8),
            [_query(_statistics(correlations))],
            {**_LINE, "thresholdsStyle": {"mode": "dashed"}},
            max=1,
            decimals=3,
            thresholds=_steps((None, "transparent"), (CORRELATED, _WARN)),
            overrides=[
                _override("of prices", color=_fixed("semi-dark-blue")),
                _override("of returns", color=_fixed("light-blue")),
            ],
        ),
        10: _series(
            "Stationarity of the spread",
            "Augmented Dickey-Fuller test over the window. Left: MacKinnon's p-value; below the line at"
            f" {SIGNIFICANT} the spread is stationary at 5 %, above it do not trade. Right: the test's statistic;"
            " the more negative, the better (asymptotic 5 % value: " + str(DICKEY_FULLER["5 %"]) + ").",
            (12, 8),
            [_query(_statistics({"p-value": _last("adf_p_value"), **statistic}))],
            {**_LINE, "thresholdsStyle": {"mode": "line+area"}},
            min=0,
            max=1,
            decimals=3,
            thresholds=_steps((None, "rgba(86, 166, 75, 0.25)"), (SIGNIFICANT, "transparent")),
            overrides=[
                _override("p-value", color=_fixed(_Z), custom__lineWidth=2),
                _override("ADF statistic", color=_fixed(_QUIET), custom__axisPlacement="right", custom__thresholdsStyle={"mode": "off"},
                          **{"min": None, "max": None}, decimals=2),
            ],
        ),
        11: _series(
            "Half-life",
            "How long the spread takes to go half the way back to its mean (Ornstein-Uhlenbeck). A gap: it does not"
            " revert.",
            (8, 7),
            [_query(_statistics({"half-life": f"{_last('half_life')} * {_BAR_MS} / 1000"}))],
            {**_LINE, "scaleDistribution": {"type": "log", "log": 10}},
            unit="s",
            color=_fixed(_Z),
        ),
        12: _series(
            "Volatility, annualised",
            "Standard deviation of returns over the window, times the square root of the bars in a year of 365 days.",
            (8, 7),
            [_query(_statistics({
                "Y": f"{_last('volatility_y')} * {per_year}", "X": f"{_last('volatility_x')} * {per_year}",
            }))],
            unit="percentunit",
            overrides=_LEGS_SHOWN,
        ),
        13: _change(),
        14: _scatter(),
        15: _summary(),
        16: _series(
            "Volume",
            "Quote asset, of both legs, by bar.",
            (24, 6),
            [_query(_bars({
                leg: f"sumIf(b.quote_volume, b.symbol = ${{{leg.lower()}:singlequote}})" for leg in "YX"
            }, _BOTH))],
            _BARS,
            unit="short",
            overrides=_LEGS_SHOWN,
            empty=_NO_BARS,
            maxDataPoints=400,
            calcs=("sum",),
        ),
    }  # fmt: skip
    return _dashboard(
        "pairflow-pair",
        "Pair",
        "One pair: prices, spread, z-score, cointegration and signals.",
        panels,
        _variables(pair=True),
        annotations=[
            _annotation(
                "Entries (up to 12)",
                "purple",
                f"""
                SELECT m.time AS "time", concat(m.signal, ' at z ', toString(round(m.z_score, 2))) AS "title",
                    concat('spread ', toString(m.spread), ', hedge ratio ', toString(m.hedge_ratio)) AS "text",
                    m.signal AS "tags"
                FROM stored_signals AS m FINAL
                WHERE {_PAIR}
                    AND $__timeFilter_ms(m.time) AND m.signal != 'exit'
                    AND (SELECT count() FROM stored_signals AS m FINAL
                        WHERE {_PAIR} AND $__timeFilter_ms(m.time) AND m.signal != 'exit') <= 12
                ORDER BY m.time
                """,
                ["Spread", "Y: ${y}", "X: ${x}"],
            ),
            _annotation(
                "Missing trades",
                "red",
                """
                SELECT g.detected AS "time", ifNull(g.repaired, now64(6)) AS "timeEnd",
                    concat(g.symbol, ': ', toString(g.missing), ' trades missing') AS "title",
                    concat('cause: ', g.cause, ', repaired: ', g.repair, ', restored: ', toString(g.restored)) AS "text",
                    g.symbol AS "tags"
                FROM gaps AS g
                WHERE g.market = ${market:singlequote} AND g.symbol IN (${y:singlequote}, ${x:singlequote})
                    AND $__timeFilter_ms(g.detected)
                ORDER BY g.detected DESC
                LIMIT 200
                """,
                ["Y: ${y}", "X: ${x}"],
            ),
        ],
    )


# ------------------------------------------------------------------------------------------------- market

_TO_STORED = "from=${__data.fields.from}&to=${__data.fields.to}"
# The newest rows at the end of the time range: three bars back at least, as pairs may lag behind each other.
_NEWEST = f"m.time <= $__toTime_ms AND m.time >= $__toTime_ms - toIntervalMillisecond(greatest(60000, 3 * {_BAR_MS}))"
_LATEST = f"""
            SELECT *
            FROM stored_pair_metrics AS m FINAL
            WHERE {_ALL_PAIRS}
                AND {_NEWEST}
            ORDER BY m.time DESC
            LIMIT 1 BY m.pair
"""
_NO_PAIRS = (
    "No statistics at the end of this time range. " + _UPDATE + " A replay lies at its own dates: the link in"
    " the panel Data goes there."
)


def _market_now() -> Json:
    sql = _sql(f"""
        SELECT count() AS "Pairs", countIf(abs(z_score) > {_ENTRY}) AS "Beyond entry",
            countIf(adf_p_value < {SIGNIFICANT}) AS "Stationary at 5 %",
            countIf(abs(z_score) > {_ENTRY} AND adf_p_value < {SIGNIFICANT}) AS "Both",
            quantileOrNullIf(0.5)(return_correlation, isFinite(return_correlation)) AS "Median correlation"
        FROM
        ({_LATEST})
    """)
    return _tiles(
        "Now",
        "At the end of the time range, at the chosen timeframe, window and method. Beyond entry: |z| over"
        " PAIRFLOW_Z_ENTRY. Both: beyond entry and stationary, what a pair trader looks for. The median is of the correlations of returns.",
        (19, 4),
        sql,
        text={"titleSize": 13, "valueSize": 16},
        overrides=[
            _override("Both", thresholds=_steps((None, "text"), (1, _GOOD))),
            _override("Beyond entry", thresholds=_steps((None, "text"), (1, _WARN))),
            _override("Median correlation", decimals=2),
        ],
    )


def _ranking() -> Json:
    sql = _sql(f"""
        SELECT n.pair AS "Pair", abs(n.z_score) AS "|z|", n.z_score AS "z-score", s.position AS "Spread is",
            {_finite("n.return_correlation")} AS "Corr. returns", {_finite("n.correlation")} AS "Corr. prices", {_finite("n.adf_p_value")} AS "ADF p",
            {_reading('"ADF p"', "")} AS "Cointegration",
            {_finite("n.half_life")} * {_BAR_MS} / 1000 AS "Half-life", {_finite("n.hedge_ratio")} AS "Hedge ratio",
            {_finite("n.r_squared")} AS "R²", n.y AS y, n.x AS x
        FROM
        ({_LATEST}) AS n
        LEFT JOIN
        (
            SELECT m.pair AS pair, {_position("argMax(m.signal, m.time)")} AS position
            FROM stored_signals AS m FINAL
            WHERE {_ALL_PAIRS} AND m.time <= $__toTime_ms
            GROUP BY m.pair
        ) AS s ON s.pair = n.pair
        WHERE isFinite(n.z_score)
        ORDER BY "|z|" DESC
    """)
    z_steps = _steps((None, _FLAT), (Z_EXIT, "blue"), (Z_ENTRY, _SHORT))
    return _table(
        "Ranking of pairs",
        "All pairs at the end of the time range, the farthest out first; click a header to sort, a pair to open it.",
        (24, 11),
        sql,
        empty=_NO_PAIRS,
        sort_by=[("|z|", True)],
        overrides=[
            _override("Pair", links=[_TO_PAIR], custom__width=155, custom__cellOptions={"type": "color-text"},
                      color=_fixed("blue")),
            _override("|z|", decimals=2, min=0, max=2 * Z_ENTRY, thresholds=z_steps, color={"mode": "thresholds"},
                      custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                      custom__width=95),
            _override("z-score", decimals=2),
            _override("Spread is", mappings=_POSITIONS, custom__cellOptions={"type": "color-text"}),
            _override("/^Corr/", decimals=3, thresholds=_steps((None, _BAD), (CORRELATED, "text")),
                      color={"mode": "thresholds"}, custom__cellOptions={"type": "color-text"}, custom__minWidth=70),
            _override("ADF p", decimals=4),
            _override("Cointegration", mappings=_READINGS, custom__cellOptions={"type": "color-text"},
                      custom__width=130),
            _override("Half-life", unit="s", decimals=1),
            _override("Hedge ratio", decimals=5, custom__minWidth=80),
            _override("R²", decimals=3),
            _override("/^(y|x)$/", custom__hideFrom__viz=True),
        ],
    )  # fmt: skip


def _finite(expression: str) -> str:
    return f"if(isFinite({expression}), {expression}, NULL)"


def _matrix(title: str, description: str, column: str) -> Json:
    sql = _sql(f"""
        SELECT legs.1 AS "Symbol", legs.2 AS "against", {_finite("legs.3")} AS "correlation"
        FROM
        (
            SELECT DISTINCT arrayJoin([(y, x, {column}), (x, y, {column}), (y, y, 1), (x, x, 1)]) AS legs
            FROM
            ({_LATEST})
        )
        ORDER BY "Symbol", "against"
    """)
    return _table(
        title,
        description,
        (12, 9),
        sql,
        empty=_NO_PAIRS,
        min=-1,
        max=1,
        decimals=2,
        color={"mode": "continuous-RdYlGr"},
        overrides=[
            _override("/^(?!Symbol).*/", custom__cellOptions={"type": "color-background", "mode": "basic"},
                      custom__align="center"),
            _override("/^Symbol/", displayName="Symbol", custom__cellOptions={"type": "auto"}),
        ],
        transformations=[
            {
                "id": "groupingToMatrix",
                "options": {
                    "rowField": "Symbol",
                    "columnField": "against",
                    "valueField": "correlation",
                    "emptyValue": "null",
                },
            }
        ],
    )  # fmt: skip


def _all_z_scores() -> Json:
    farthest = (
        f"(SELECT pair FROM\n        ({_LATEST}) WHERE isFinite(z_score) ORDER BY abs(z_score) DESC LIMIT 8)"
    )
    return _series(
        "z-scores of the pairs that are farthest out",
        "The eight pairs with the largest |z| at the end of the time range.",
        (24, 9),
        [
            _query(
                _statistics(
                    {"Value": _last("z_score")}, f"{_ALL_PAIRS}\n    AND m.pair IN {farthest}", "m.pair"
                )
            )
        ],
        {**_LINE, "thresholdsStyle": {"mode": "dashed"}},
        thresholds=_steps(
            (None, "transparent"), (-Z_ENTRY, _BAD), (-Z_EXIT, _QUIET), (Z_EXIT, _QUIET), (Z_ENTRY, _BAD)
        ),
        decimals=2,
        sort="desc",
        empty=_NO_PAIRS,
    )


def _all_signals() -> Json:
    sql = _sql(f"""
        SELECT "Time", series, argMax(position, since) AS "Value"
        FROM
        (
            SELECT {_held("m.time")} AS "Time", m.time AS since, m.pair AS series,
                {_position("m.signal")} AS position
            FROM stored_signals AS m FINAL
            WHERE {_ALL_PAIRS} AND m.time <= $__toTime_ms
            UNION ALL
            SELECT {_held("toDateTime64(0, 6)")} AS "Time", toDateTime64(0, 6) AS since, m.pair AS series,
                0 AS position
            FROM stored_latest_pair_metrics AS m
            WHERE {_ALL_PAIRS}
        )
        GROUP BY "Time", series
        ORDER BY "Time", series
    """)
    return _timeline(
        "Signals of all pairs: red short, green long, gray flat",
        "Short the spread: sell Y, buy X by the hedge ratio. Long: the other way round.",
        (24, 9),
        sql,
        say="No pairs here: is the flow running?",
        empty=_NO_PAIRS,
        mappings=_POSITIONS,
        per_page=20,
    )


def _movers() -> Json:
    sql = _sql("""
        SELECT b.symbol AS "Symbol", toString(argMax(b.close, b.open_time)) AS "Price",
            100 * (argMax(b.close, b.open_time) / argMin(b.open, b.open_time) - 1) AS "Change",
            100 * (max(b.high) / min(b.low) - 1) AS "Range", sum(b.quote_volume) AS "Volume",
            sum(b.trades) AS "Trades", sum(b.taker_buy_quote_volume) / nullIf(sum(b.quote_volume), 0) AS "Buys"
        FROM stored_bars AS b FINAL
        WHERE b.market = ${market:singlequote} AND b.timeframe = ${bars:singlequote} AND $__timeFilter_ms(b.open_time)
        GROUP BY b.symbol
        ORDER BY abs("Change") DESC
    """)
    return _table(
        "Movers",
        "Symbols over the time range. Volume in the quote asset; buys: the part of it that takers bought.",
        (14, 9),
        sql,
        empty=_NO_BARS,
        sort_by=[("Volume", True)],
        overrides=[
            _override("Change", unit="percent", decimals=2, thresholds=_steps((None, _BAD), (0, _GOOD)),
                      color={"mode": "thresholds"}, custom__cellOptions={"type": "color-text"}, custom__width=75),
            _override("Range", unit="percent", decimals=2, custom__width=65),
            _override("Price", custom__align="right"),
            _override("Volume", unit="short"),
            _override("Trades", unit="short", custom__width=70),
            _override("Buys", unit="percentunit", decimals=0, custom__width=55),
        ],
    )  # fmt: skip


def market_dashboard() -> Json:
    """Return the dashboard of all pairs."""
    newest = _ends(f"{_ALL_PAIRS.replace('m.', 'l.')}")
    matrix = "At the end of the time range. Green: move together; red: move against each other."
    panels = {
        1: _data("pairflow-market", newest, "concat('at ', ${timeframe:singlequote})", _BAR_MS),
        2: _market_now(),
        3: _ranking(),
        4: _all_z_scores(),
        5: _matrix("Correlation of returns", matrix, "return_correlation"),
        6: _matrix("Correlation of prices", matrix, "correlation"),
        7: _all_signals(),
        8: _series(
            "Volume",
            "Quote asset, by symbol.",
            (10, 9),
            [_query(_bars({"Value": "sum(b.quote_volume)"}, "", series=True))],
            _BARS,
            unit="short",
            empty=_NO_BARS,
            maxDataPoints=120,
            calcs=("sum",),
        ),
        9: _movers(),
    }
    return _dashboard(
        "pairflow-market",
        "Market",
        "All pairs: which are far apart now, which belong together.",
        panels,
        _variables(pair=False),
    )


# ----------------------------------------------------------------------------------------------- pipeline


def _pipeline_now() -> Json:
    sql = _sql(f"""
        SELECT
            (maxIf(value, name = 'pairflow_trades_total' AND place = 1)
                - maxIf(value, name = 'pairflow_trades_total' AND place = 2))
                / nullIf(dateDiff('millisecond', maxIf(time, place = 2), maxIf(time, place = 1)) / 1000, 0) AS rate,
            if(rate < 0, NULL, rate) AS "Trades/s",
            {_finite("maxIf(value, name = 'pairflow_bar_lag_seconds' AND place = 1)")} AS "Bar end to stored",
            sumIf(value, name = 'pairflow_connection' AND labels['state'] = 'live' AND place = 1) AS "Live connections",
            maxIf(value, name = 'pairflow_open_gaps' AND place = 1) AS "Open gaps",
            maxIf(value, name = 'pairflow_rows_waiting' AND place = 1) AS "Rows waiting",
            maxIf(value, name = 'pairflow_insert_failing_seconds' AND place = 1) AS "Inserts failing for",
            maxIf(value, name = 'process_resident_memory_bytes' AND place = 1) AS "Memory",
            count() AS n
        FROM
        (
            SELECT s.time AS time, s.name AS name, s.labels AS labels, s.value AS value,
                dense_rank() OVER (ORDER BY s.time DESC) AS place
            FROM pipeline_metrics AS s
            WHERE s.name IN ('pairflow_trades_total', 'pairflow_bar_lag_seconds', 'pairflow_connection',
                'pairflow_open_gaps', 'pairflow_rows_waiting', 'pairflow_insert_failing_seconds',
                'process_resident_memory_bytes')
                AND s.time <= $__toTime_ms AND s.time >= $__toTime_ms - INTERVAL 1 MINUTE
        )
        HAVING n > 0
    """)
    return _tiles(
        "Now",
        "The newest sample in the last minute of the time range; the flow takes one every 5 s. Rows waiting are taken"
        " and not stored yet.",
        (19, 4),
        sql,
        empty="The flow has said nothing in the last minute: is it running? Start it with make run or make demo.",
        fields="/^(?!rate$|n$).*/",
        text={"titleSize": 13, "valueSize": 19},
        overrides=[
            _override("Trades/s", unit="short", decimals=0),
            _override("Bar end to stored", unit="s", decimals=2, thresholds=_steps((None, "text"), (LAG_SECONDS / 2, _WARN), (LAG_SECONDS, _BAD))),
            _override("Live connections", thresholds=_steps((None, _WARN), (1, "text"))),
            _override("Open gaps", thresholds=_steps((None, "text"), (1, _WARN))),
            _override("Rows waiting", unit="short", thresholds=_steps((None, "text"), (100_000, _WARN))),
            _override("Inserts failing for", unit="s", thresholds=_steps((None, "text"), (0.001, _BAD))),
            _override("Memory", unit="bytes"),
        ],
    )  # fmt: skip


def _watching(title: str, description: str, queries: list[Json], custom: Json = _LINE, **more: Any) -> Json:
    """Return a panel about the pipeline itself, a third of the page wide."""
    settings: Json = {
        "interval": "5s",
        "maxDataPoints": 600,
        "empty": _NO_SAMPLES,
        "min": 0,
    } | more
    return _series(title, description, (8, 7), queries, custom, **settings)


def pipeline_dashboard() -> Json:
    """Return the dashboard of the pipeline itself."""
    bars = "FROM stored_bars AS b WHERE b.market = ${market:singlequote} AND b.symbol = ${y:singlequote}"
    bars += " AND b.timeframe = ${bars:singlequote} ORDER BY b.open_time"
    # Only the ends of a range of the sorting key are read.
    newest = _sql(f"""
        SELECT ifNull(toUnixTimestamp64Micro((SELECT b.open_time {bars} LIMIT 1)), 0) AS first,
            ifNull(toUnixTimestamp64Micro((SELECT b.open_time {bars} DESC LIMIT 1)), 0) AS last,
            ifNull((SELECT CAST(b.source, 'String') {bars} DESC LIMIT 1), '') AS source
    """)
    # A state ends where no sample follows: Grafana would draw it on, up to now.
    silence = "greatest(15000, 2 * $__interval_ms)"
    connections = _sql(f"""
        SELECT state.1 AS "Time", series, state.2 AS "Value"
        FROM
        (
            SELECT at, series, value, leadInFrame(toNullable(at)) OVER (PARTITION BY series ORDER BY at
                ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
            FROM
            (
                SELECT toStartOfInterval(s.time, toIntervalMillisecond($__interval_ms)) AS at,
                    concat('connection ', s.labels['name']) AS series, argMax(transform(s.labels['state'],
                        ['connecting', 'live', 'retiring'], [1, 2, 3], 0), s.time) AS value
                FROM pipeline_metrics AS s
                WHERE s.name = 'pairflow_connection' AND $__timeFilter_ms(s.time)
                GROUP BY at, series
            )
        )
        ARRAY JOIN if(dateDiff('millisecond', at, ifNull(following, $__toTime_ms)) > {silence},
            [(at, value), (at + toIntervalMillisecond({silence}), 0)], [(at, value)]) AS state
        ORDER BY "Time", series
    """)
    gaps = _sql("""
        SELECT g.detected AS "Noticed", g.symbol AS "Symbol", g.missing AS "Trades", g.cause AS "Cause",
            g.repair AS "Repair", dateDiff('millisecond', g.detected, ifNull(g.repaired, now64(6))) / 1000 AS "Took",
            g.restored AS "Restored", toString(g.first_id) AS "First id", toString(g.last_id) AS "Last id"
        FROM gaps AS g
        WHERE g.market = ${market:singlequote} AND (g.repaired IS NULL OR $__timeFilter_ms(g.detected))
        ORDER BY g.detected DESC
        LIMIT 200
    """)
    quality = _sql("""
        SELECT toStartOfHour(b.open_time) AS "Hour", b.symbol AS "Symbol", count() AS "Bars",
            sum(b.trades) AS "Trades",
            if(countIf(b.first_id >= 0) = 0, 0, maxIf(b.last_id, b.first_id >= 0) - minIf(b.first_id, b.first_id >= 0) + 1
                - toInt64(sumIf(b.trades, b.first_id >= 0))) AS "Missing ids",
            countIf(b.provisional) AS "Provisional", countIf(b.version > 1) AS "Revised",
            countIf(b.trades = 0) AS "Without trades"
        FROM stored_bars AS b FINAL
        WHERE b.market = ${market:singlequote} AND b.timeframe = ${bars:singlequote}
            AND b.open_time >= toStartOfHour($__fromTime_ms) AND b.open_time <= $__toTime_ms
        GROUP BY "Hour", b.symbol
        ORDER BY "Hour" DESC, b.symbol
        LIMIT 500
    """)
    runs = _sql("""
        SELECT r.started AS "Started", r.source AS "Source", r.market AS "Market",
            arrayStringConcat(r.symbols, ', ') AS "Symbols", length(r.pairs) AS "Pairs",
            arrayStringConcat(arrayPushBack(arrayMap((name, version) -> concat(name, ' ', version), mapKeys(r.versions),
                mapValues(r.versions)), concat('now on ClickHouse ', version())), ', ') AS "Versions",
            concat(r.host, ', process ', toString(r.pid)) AS "Where"
        FROM runs AS r
        ORDER BY r.started DESC
        LIMIT 20
    """)
    step = "labels['step']"
    table = "labels['table']"
    panels = {
        1: _data("pairflow-pipeline", newest, "concat('of ', ${y:singlequote}, ' at ', ${bars:singlequote})", _BAR_MS),
        2: _pipeline_now(),
        3: _row("Feed"),
        4: _timeline(
            "Connections",
            "State of each connection to the exchange. The next one is opened before the last must end.",
            (24, 4),
            connections,
            say="None: is the flow running?",
            empty=_NO_ANSWER,
            mappings=_values(_1=("connecting", _WARN), _2=("live", _GOOD), _3=("retiring", "blue"), _0=("silent", _FLAT)),
            show="auto",
            interval="5s",
            maxDataPoints=600,
        ),
        5: _watching(
            "Trades",
            "Trades that entered the flow, each second.",
            [_query(_growth("pairflow_trades_total", "'trades'", "increase / divisor"))],
            {**_LINE, "fillOpacity": 15},
            unit="short",
            calcs=("mean", "max"),
        ),
        6: _watching(
            "Lag",
            "Receipt: from the exchange's event time to its arrival here, difference of the clocks included. Stored:"
            " from the end of the newest bar to when it can be queried.",
            [_query(_gauge({
                "pairflow_receive_lag_seconds": "receipt", "pairflow_bar_lag_seconds": "bar end to stored",
            }))],
            {**_LINE, "thresholdsStyle": {"mode": "dashed"}},
            unit="s",
            thresholds=_steps((None, "transparent"), (LAG_SECONDS, _BAD)),
            calcs=("mean", "max"),
        ),
        7: _watching(
            "Buffers",
            "Bytes received and not decoded yet; trades that wait for missing ids; rows not stored yet.",
            [_query(_gauge({
                "pairflow_buffered_bytes": "bytes to decode", "pairflow_held_trades": "trades held",
                "pairflow_rows_waiting": "rows to store",
            }))],
            unit="short",
            calcs=("lastNotNull", "max"),
        ),
        8: _watching(
            "Reconnections and losses",
            "Since the flow started: connections opened because another was lost or had to end; messages dropped"
            " because the queue was full, whose trades are then fetched by REST; trades that never came and never will.",
            [
                _query(_gauge({
                    "pairflow_reconnections_total": "reconnections", "pairflow_overflows_total": "dropped messages",
                    "pairflow_unavailable_trades_total": "trades lost for good",
                })),
            ],
            unit="short",
        ),
        9: _watching(
            "Back-fill",
            "Trades restored by REST and duplicates dropped, since the flow started.",
            [_query(_gauge({
                "pairflow_restored_trades_total": "restored", "pairflow_duplicates_total": "duplicates",
                "pairflow_rest_requests_total": "REST requests",
            }))],
            unit="short",
        ),
        10: _watching(
            "Request weight used",
            f"Of the {WEIGHT_LIMIT} a minute that the exchange allows this address, by all programs behind it.",
            [_query(_gauge({"pairflow_weight_used": "weight"}))],
            {**_LINE, "fillOpacity": 15, "thresholdsStyle": {"mode": "dashed"}},
            thresholds=_steps((None, "transparent"), (WEIGHT_LIMIT * 0.8, _WARN), (WEIGHT_LIMIT, _BAD)),
            max=WEIGHT_LIMIT,
        ),
        11: _table(
            "Gaps and their repair",
            "Stretches of trade ids that did not arrive by themselves: in the time range, and all that are open.",
            (24, 7),
            gaps,
            empty="No gap in this time range: every trade id arrived by itself." + _RED,
            overrides=[
                _override("Took", unit="s", decimals=1),
                _override("Repair", custom__cellOptions={"type": "color-text"}, mappings=_patterns(
                    ("^open$", _WARN), ("^unavailable$", _BAD), ("^(rest|late)$", _GOOD))),
            ],
        ),
        12: _row("Steps and store"),
        13: _watching(
            "Time of a batch, by step",
            "Mean time that a step of the flow takes for one batch.",
            [_query(_growth("pairflow_step_seconds_total", step, "increase / divisor", "pairflow_step_batches_total"))],
            unit="s",
            calcs=("mean", "max"),
        ),
        14: _watching(
            "Time spent, by step",
            "Part of a core that a step keeps busy. Near 100 % in all, the flow cannot take more.",
            [_query(_growth("pairflow_step_seconds_total", step, "increase / divisor"))],
            {**_LINE, "fillOpacity": 25, "stacking": {"mode": "normal", "group": "A"}},
            unit="percentunit",
            max=1,
            calcs=("mean",),
        ),
        15: _watching(
            "Process",
            "Memory (left) and cores in use (right) of the flow's process, an embedded store included.",
            [
                _query(_gauge({"process_resident_memory_bytes": "memory"})),
                _query(_growth("process_cpu_seconds_total", "'cores'", "increase / divisor"), "B"),
            ],
            unit="bytes",
            displayName="${__field.labels.series}",
            overrides=[_override("/cores$/", unit="none", decimals=2, custom__axisPlacement="right")],
        ),
        16: _watching(
            "Time of an insert, by table",
            "Mean time that ClickHouse takes for one insert.",
            [_query(_growth(
                "pairflow_table_insert_seconds_total", table, "increase / divisor", "pairflow_table_inserts_total"
            ))],
            unit="s",
            calcs=("mean", "max"),
        ),
        17: _watching(
            "Rows stored, by table",
            "Rows written each second.",
            [_query(_growth("pairflow_rows_written_total", table, "increase / divisor"))],
            {**_LINE, "fillOpacity": 25, "stacking": {"mode": "normal", "group": "A"}},
            unit="short",
            calcs=("mean",),
        ),
        18: _watching(
            "Failures",
            "Seconds for which inserts have been failing (0: they work), and attempts repeated since the flow started.",
            [_query(_gauge({
                "pairflow_insert_failing_seconds": "failing for, s", "pairflow_insert_failures_total": "attempts",
                "pairflow_late_trades_total": "trades too late for their bar",
            }))],
            unit="short",
        ),
        19: _row("Quality of the data"),
        20: _table(
            "Quality of the bars, by hour",
            "At the shown timeframe. Missing ids: between the first and the last trade of the hour and in no bar."
            " Provisional: ids are still being fetched. Revised: changed by a late trade.",
            (24, 8),
            quality,
            empty=_NO_BARS,
            overrides=[
                _override("/Trades/", unit="short"),
                _override("Missing ids", thresholds=_steps((None, "text"), (1, _BAD)), color={"mode": "thresholds"},
                          custom__cellOptions={"type": "color-text"}),
                _override("Provisional", thresholds=_steps((None, "text"), (1, _WARN)), color={"mode": "thresholds"},
                          custom__cellOptions={"type": "color-text"}),
            ],
        ),
        21: _table(
            "Runs and versions",
            "The last starts of the flow, and what it ran on.",
            (24, 6),
            runs,
            empty="The flow has never run on this store.",
            overrides=[_override("Versions", custom__minWidth=240, custom__wrapText=True),
                       _override("/Symbols|Where/", custom__width=150, custom__wrapText=True),
                       _override("/Source|Market|Pairs/", custom__width=75)],
        ),
        22: _row(
            "Seen from outside (Prometheus)",
            {
                23: _outside("Flow answers", "1 while Prometheus can scrape the flow.",
                         "max by (instance) (up * on (instance, job) group_left () (present_over_time(pairflow_trades_total[1d])))",
                         unit="short", max=1),
                24: _outside("Trades", "Trades that entered the flow, each second.",
                         "rate(pairflow_trades_total[$__rate_interval])", unit="short"),
                25: _outside("Market seen until", "How far behind the clock the flow has seen the market.",
                         "time() - pairflow_watermark_seconds", unit="s"),
                26: _outside("Inserts failing for", "How long ClickHouse has refused what the flow writes.",
                         "pairflow_insert_failing_seconds", unit="s"),
                27: _outside("Open gaps", "Ranges of ids that are missing.", "pairflow_open_gaps", unit="short"),
                28: _outside("Memory", "Of the flow's process.",
                         "process_resident_memory_bytes and on (instance, job) pairflow_trades_total", unit="bytes"),
            },
        ),
    }  # fmt: skip
    return _dashboard(
        "pairflow-pipeline",
        "Pipeline",
        "Whether the flow does its work: feed, lag, gaps, steps, store, quality of the data.",
        panels,
        _variables(pair=False, selection=False),
        refresh="10s",  # a refresh ends queries that are still running, and here are many
    )


def _outside(title: str, description: str, expr: str, **more: Any) -> Json:
    return _watching(
        title,
        description,
        [_promql(expr, "{{instance}}")],
        empty="Prometheus has no samples. Let it scrape the flow's metrics port, PAIRFLOW_METRICS_PORT.",
        **more,
    )


# ------------------------------------------------------------------------------------------------- alerts

_HOW_TO = """
A rule is a row of `alert_rules`, evaluated every 10 s on every pair it fits, and notified through Grafana.

```sql
INSERT INTO alert_rules (name, pair, timeframe, metric, condition, threshold, for_seconds)
VALUES ('Far out', 'ETHUSDT/BTCUSDT', '1m', 'z_score', 'abs >', 2.5, 30)
```

`pair`, `timeframe`, `method` left out or empty, and `window` 0, mean all. `metric` is a number of `pair_metrics`; `condition` is
`>` `>=` `<` `<=`, with `abs` before it for the magnitude. `DELETE FROM alert_rules WHERE name = 'Far out'` removes a rule.
"""


def _alert_history() -> Json:
    """Return the list of what Grafana noted of the alerts that belong to this dashboard; see rules.yaml."""
    query = {
        "refId": "A",
        "datasource": GRAFANA,
        "queryType": "annotations",
        "target": {"type": "dashboard", "limit": 500},
    }
    columns = {
        "time": "At",
        "newState": "State",
        "alertName": "Alert",
        "For": "For",
        "text": "Labels and values",
    }
    panel = _table(
        "History of alerts",
        "When alerts began and ended in the time range, as Grafana noted it.",
        (16, 10),
        "",
        empty="No alert has begun or ended in this time range.",
        overrides=[
            _override("State", mappings=_patterns(
                ("^Alerting.*", _BAD), ("^Normal.*", _GOOD), ("^Pending.*", _WARN), (".*", _FLAT)),
                custom__cellOptions={"type": "color-text"}, custom__width=130),
            _override("Alert", custom__width=160), _override("For", custom__width=150),
            _override("Labels and values", custom__minWidth=240, custom__inspect=True),
        ],
        transformations=[
            {
                "id": "extractFields",
                "options": {
                    "source": "text",
                    "format": "regexp",
                    "regExp": r"/[ {](?:pair|symbol)=(?<For>[^,}]+)/",
                    "replace": False,
                    "keepTime": False,
                },
            },
            {
                "id": "filterByValue",
                "options": {
                    "type": "exclude",
                    "match": "any",
                    "filters": [
                        {"fieldName": "newState", "config": {"id": "regex", "options": {"value": "NoData|Updated"}}}
                    ],
                },
            },
            {
                "id": "organize",
                "options": {
                    "includeByName": dict.fromkeys(columns, True),
                    "indexByName": {name: index for index, name in enumerate(columns)},
                    "renameByName": columns,
                },
            }
        ],
        sort_by=[("At", True)],
    )  # fmt: skip
    return panel | {"datasource": GRAFANA, "targets": [query]}


def alerts_dashboard() -> Json:
    """Return the dashboard of signals and alerts."""
    now = _sql("""
        SELECT
            (SELECT countIf(enabled) FROM alert_rules) AS "Your rules",
            (SELECT countIf(signal != 'exit') FROM latest_signals WHERE market = ${market:singlequote}) AS "Spreads in position",
            (SELECT count() FROM gaps WHERE repaired IS NULL) AS "Open gaps"
    """)
    states = _sql("""
        SELECT if(s.firing = 1, 1, 0) AS "State", s.name AS "Rule", s.pair AS "Pair",
            concat(s.timeframe, ' × ', toString(s.window)) AS "Bars", s.method AS "Method", s.metric AS "Metric",
            s.value AS "Now", concat(s.condition, ' ', toString(s.threshold)) AS "Condition", s.time AS "At",
            splitByChar('/', s.pair)[1] AS y, splitByChar('/', s.pair)[2] AS x
        FROM alert_states AS s
        ORDER BY "State" DESC, s.name, s.pair
        LIMIT 500
    """)
    rules = _sql("""
        SELECT r.name AS "Name", if(r.enabled, 1, 0) AS "On", if(r.pair = '', 'all', r.pair) AS "Pair",
            concat(if(r.timeframe = '', 'all', r.timeframe), ' × ', if(r.window = 0, 'all', toString(r.window))) AS "Bars",
            if(r.method = '', 'all', r.method) AS "Method", r.metric AS "Metric",
            concat(toString(r.condition), ' ', toString(r.threshold)) AS "Condition", r.for_seconds AS "For",
            r.note AS "Note", r.created AS "Written"
        FROM alert_rules AS r
        ORDER BY r.created DESC
        LIMIT 500
    """)
    history = _sql(
        """
        SELECT m.time AS "At", m.pair AS "Pair", {position} AS "Signal",
            concat(m.timeframe, ' × ', toString(m.window)) AS "Bars", m.method AS "Method", m.z_score AS "z-score", m.hedge_ratio AS "Hedge ratio",
            m.spread AS "Spread", toString(m.price_y) AS "Price of Y",
            toString(m.price_x) AS "Price of X", m.y AS y, m.x AS x
        FROM stored_signals AS m FINAL
        WHERE m.market = ${market:singlequote} AND $__timeFilter_ms(m.time)
        ORDER BY m.time DESC
        LIMIT 1000
    """.replace("{position}", _position("m.signal"))
    )
    counts = _sql("""
        SELECT toStartOfInterval(m.time, toIntervalMillisecond($__interval_ms)) AS "Time",
            countIf(m.signal = 'short') AS "short", countIf(m.signal = 'long') AS "long", countIf(m.signal = 'exit') AS "exit"
        FROM stored_signals AS m FINAL
        WHERE m.market = ${market:singlequote} AND $__timeFilter_ms(m.time)
        GROUP BY "Time"
        ORDER BY "Time"
    """)
    hidden = _override("/^(y|x)$/", custom__hideFrom__viz=True)
    # What is short leaves its room to names, on a narrow page too.
    narrow = [_override("Bars", custom__width=80), _override("Method", custom__width=75)]
    to_pair = _override(
        "Pair", links=[_TO_PAIR], custom__cellOptions={"type": "color-text"}, color=_fixed("blue")
    )
    panels = {
        1: _tiles("Now", "Your own rules, and what the pipeline says.", (24, 4), now,
               text={"titleSize": 13, "valueSize": 22},
               overrides=[
                   _override("Open gaps", thresholds=_steps((None, "text"), (1, _WARN))),
               ]),
        2: {
            "type": "alertlist",
            "title": "Firing now",
            "description": "All alerts of Grafana that are firing or about to.",
            "gridPos": {"w": 8, "h": 10},
            "options": {
                "viewMode": "list", "groupMode": "default", "groupBy": [], "maxItems": 50, "sortOrder": 3,
                "dashboardAlerts": False, "alertName": "", "alertInstanceLabelFilter": "",
                "stateFilter": {"firing": True, "pending": True, "recovering": True, "noData": True, "error": True, "normal": False},
            },
        },
        3: _alert_history(),
        4: _table("Your rules on every pair they fit", "The metric now, and whether its condition has held for long enough.",
               (24, 8), states,
               empty="No rule fits a pair that has statistics now. Write one: see below." + _RED,
               overrides=[
                   _override("State", mappings=_values(_1=("FIRING", _BAD), _0=("ok", _GOOD)), custom__width=75,
                             custom__cellOptions={"type": "color-text"}),
                   to_pair, hidden, *narrow, _override("Now", custom__width=75),
               ]),
        5: _table("Your rules", "Rows of the table alert_rules.", (24, 7), rules,
               empty="No rules of your own yet: write one as the panel below shows." + _RED,
               overrides=[
                   _override("On", mappings=_values(_1=("on", _GOOD), _0=("off", _FLAT)), custom__width=45,
                             custom__cellOptions={"type": "color-text"}),
                   _override("For", unit="s", custom__width=60), *narrow,
               ]),
        6: _text("How to write a rule", _HOW_TO, (24, 7)),
        7: _series("Signals over time", "Signals that the pipeline gave, all pairs.", (24, 6), [_query(counts)], _BARS,
                interval="5s", maxDataPoints=200, unit="short", calcs=("sum",),
                empty="No signal in this time range: no z-score has passed an entry line." + _RED,
                overrides=[_override("short", color=_fixed(_SHORT)), _override("long", color=_fixed(_LONG)),
                           _override("exit", color=_fixed(_QUIET))]),
        8: _table("History of signals", "The newest thousand in the time range; a click on a pair opens it.", (24, 10), history,
               empty="No signal in this time range: no z-score has passed an entry line." + _RED,
               overrides=[
                   _override("Signal", mappings=_POSITIONS, custom__cellOptions={"type": "color-text"}),
                   _override("/^Price of/", custom__align="right", custom__minWidth=85), _override("z-score", decimals=2), _override("Hedge ratio", decimals=5), to_pair, hidden,
               ]),
    }  # fmt: skip
    return _dashboard(
        "pairflow-alerts",
        "Alerts",
        "What fires, what fired, and your own rules.",
        panels,
        _variables(pair=False, selection=False),
        hours="1h",
        refresh="10s",  # as often as rules are evaluated
    )


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        file = FOLDER / f"{dashboard['uid'].removeprefix('pairflow-')}.json"
        file.write_text(as_text(dashboard))


def as_text(dashboard: Json) -> str:
    """Return a dashboard as the text of its file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


DASHBOARDS = [pair_dashboard(), market_dashboard(), pipeline_dashboard(), alerts_dashboard()]

if __name__ == "__main__":
    main()
