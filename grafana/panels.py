"""Panels of Grafana as JSON: queries, thresholds, mappings, overrides, kinds of panels, and the layout."""

import json
from typing import Any

from grafana.sql import sql
from grafana.versions import GRAFANA, PLUGIN, PLUGIN_VERSION

Json = dict[str, Any]

CLICKHOUSE = {"type": PLUGIN, "uid": "clickhouse"}
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
GRAFANA_ITSELF = {"type": "grafana", "uid": "grafana"}
"""Grafana's own store, which is a data source in every Grafana."""

# Each leg has its colour, on all dashboards.
LEG_Y, LEG_X, Z_SCORE, QUIET = "blue", "orange", "purple", "#8e8e8e"
SHORT, LONG, FLAT = "red", "green", "#808080"
GOOD, WARN, BAD = "green", "orange", "red"

HOW_TO_START = "Is the flow running? Start it with make run, or make demo without a network."
NO_STATISTICS = (
    f"No statistics of this pair, timeframe, window and method in this time range. {HOW_TO_START} A replay"
    " lies at its own dates: the link in the panel Data goes there."
)
NO_ANSWER = f"No answer from the store. {HOW_TO_START}"
RED_CORNER = " (A red corner: the store does not answer.)"
NO_BARS = f"No bars in this time range. {HOW_TO_START}"


# ------------------------------------------------------------------------------------------------ queries


def series_query(text: str, ref: str = "A") -> Json:
    """Return a query of ClickHouse for time series, one for each text in its rows.

    :arg text: SQL.
    :arg ref: letter of the query within its panel.
    """
    return _query(text, ref, "timeseries", 0)


def table_query(text: str, ref: str = "A") -> Json:
    """Return a query of ClickHouse for a table; the arguments are those of `series_query`."""
    return _query(text, ref, "table", 1)


def _query(text: str, ref: str, query_type: str, format_number: int) -> Json:
    return {
        "refId": ref,
        "datasource": CLICKHOUSE,
        "editorType": "sql",
        "queryType": query_type,
        "format": format_number,
        "pluginVersion": PLUGIN_VERSION,
        "meta": {},
        "rawSql": text,
    }


def prometheus_query(expression: str, legend: str) -> Json:
    """Return a query of Prometheus.

    :arg expression: PromQL.
    :arg legend: name of a series, with labels as ``{{label}}``.
    """
    return {
        "refId": "A",
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": expression,
        "legendFormat": legend,
        "range": True,
    }


# ----------------------------------------------------------------------------------- properties of fields


def thresholds(*steps: tuple[float | None, str]) -> Json:
    """Return thresholds: values with the colours that begin there; the first value is None."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def fixed(color: str) -> Json:
    """Return a colour that does not depend on the value."""
    return {"mode": "fixed", "fixedColor": color}


def override(field: str, **properties: Any) -> Json:
    """Return an override of the properties of some fields.

    :arg field: name of a field, or a regular expression between slashes.
    :arg properties: ``custom__x`` stands for Grafana's custom.x.
    """
    matcher = "byRegexp" if field.startswith("/") else "byName"
    return {
        "matcher": {"id": matcher, "options": field},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def value_mapping(texts: dict[str, tuple[str, str]]) -> list[Json]:
    """Return a mapping of values to texts and their colours."""
    options = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def pattern_mapping(*patterns: tuple[str, str]) -> list[Json]:
    """Return a mapping that colours texts by regular expressions and leaves them as they are."""
    return [
        {"type": "regex", "options": {"pattern": pattern, "result": {"color": color, "index": index}}}
        for index, (pattern, color) in enumerate(patterns)
    ]


POSITIONS = value_mapping({"-1": ("SHORT", SHORT), "0": ("flat", FLAT), "1": ("LONG", LONG)})
ADF_READINGS = pattern_mapping(
    ("^stationary.*", GOOD), ("^weak.*", WARN), ("^not stationary.*", BAD), (".*", FLAT)
)
"""Colours of the texts of the SQL part ``@adf_reading``."""

LINE: Json = {
    "drawStyle": "line",
    "lineWidth": 1,
    "fillOpacity": 0,
    "showPoints": "never",
    "spanNulls": False,
    "axisBorderShow": False,
}
BARS: Json = {
    "drawStyle": "bars",
    "lineWidth": 0,
    "fillOpacity": 70,
    "stacking": {"mode": "normal", "group": "A"},
    "showPoints": "never",
}
DASHED: Json = {"fill": "dash", "dash": [6, 6]}


# ---------------------------------------------------------------------------------------- kinds of panels


def panel(
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
    """Return a panel.

    :arg kind: Grafana's name of the visualization.
    :arg size: width in 24ths of the page, height in units of about 38 px.
    :arg options: of the visualization.
    :arg empty: what the panel says when its queries return no rows: what would fill it.
    :arg custom: options of fields that only this kind of panel has.
    :arg more: options of fields, by their names in Grafana; other names are options of the panel.
    """
    defaults: Json = {"custom": custom or {}, "noValue": empty}
    for name in ("unit", "decimals", "min", "max", "color", "thresholds", "mappings", "links", "displayName"):
        if name in more:
            defaults[name] = more.pop(name)
    sources = {json.dumps(query["datasource"]) for query in queries}
    return {
        "type": kind,
        # Without it Grafana reads the options as those of its oldest version, and converts them.
        "pluginVersion": GRAFANA,
        "title": title,
        "description": description,
        "datasource": json.loads(sources.pop()) if len(sources) == 1 else None,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": queries,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": overrides or []},
        **more,
    }


def _legend(*calcs: str) -> Json:
    return {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": list(calcs)}


HIDDEN_LEGEND: Json = {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []}


def time_series(
    title: str,
    description: str,
    size: tuple[int, int],
    queries: list[Json],
    custom: Json = LINE,
    **more: Any,
) -> Json:
    """Return a panel of time series; further arguments are those of `panel`.

    :arg more: with ``calcs``, what the legend shows of each series, and ``sort``, the order in the tooltip.
    """
    options = {
        "legend": _legend(*more.pop("calcs", ("lastNotNull",))),
        "tooltip": {"mode": "multi", "sort": more.pop("sort", "none")},
    }
    settings: Json = {"interval": "100ms", "maxDataPoints": 1200, "empty": NO_STATISTICS} | more
    return panel("timeseries", title, description, size, queries, options, custom=custom, **settings)


# Without rows Grafana would draw the headers alone. This makes a frame for each value of column one_frame,
# and that is the same in all rows: so without rows there is no frame, and the panel says why it is empty.
_ONE_FRAME: Json = {
    "id": "partitionByValues",
    "options": {"fields": ["one_frame"], "keepFields": False, "naming": {"asLabels": False}},
}


def tiles(title: str, description: str, size: tuple[int, int], text: str, **more: Any) -> Json:
    """Return a row of tiles; further arguments are those of `panel`.

    :arg text: SQL of one row, with a tile for each column, and the column one_frame.
    :arg more: with ``sizes`` of the letters, and ``fields``, the columns that are shown.
    """
    options = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": more.pop("fields", "/.*/")},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "vertical",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "textMode": "value_and_name",
        "wideLayout": False,
        "text": more.pop("sizes"),
    }
    settings: Json = {
        "empty": NO_ANSWER,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds((None, "text")),
    } | more
    return panel(
        "stat",
        title,
        description,
        size,
        [table_query(text)],
        options,
        overrides=[override("/.*/", noValue="–"), *settings.pop("overrides", [])],  # noqa: RUF001
        transformations=[_ONE_FRAME],
        **settings,
    )


def table(title: str, description: str, size: tuple[int, int], queries: list[Json], **more: Any) -> Json:
    """Return a table; further arguments are those of `panel`.

    :arg queries: one, whose rows have the column one_frame.
    :arg more: with ``sort_by``, names of columns, and whether the largest comes first.
    """
    options = {
        "showHeader": more.pop("show_header", True),
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
    times = "/^(At|Noticed|Started|Hour|Written)$/"
    overrides = [
        override("/.*/", noValue="–"),  # noqa: RUF001
        # Where the times are close together, Grafana would show milliseconds.
        override(times, custom__width=170, unit="time:YYYY-MM-DD HH:mm:ss"),
        override("/^Pair$/", custom__width=150),
        *more.pop("overrides", []),
    ]
    transformations = [_ONE_FRAME, *more.pop("transformations", [])]
    return panel(
        "table",
        title,
        description,
        size,
        queries,
        options,
        custom=custom,
        overrides=overrides,
        transformations=transformations,
        **more,
    )


def timeline(
    title: str, description: str, size: tuple[int, int], text: str, *, empty_text: str, **more: Any
) -> Json:
    """Return a timeline of states, a row for each series; further arguments are those of `panel`.

    :arg text: SQL of times, series and values; the mapping names the states, and 0 is none of them.
    :arg empty_text: name of the only row if there are no states.
    :arg more: with ``show``, whether the name of a state is shown, and ``per_page``, how many rows are.
    """
    options = {
        "alignValue": "center",
        "legend": {**_legend(), "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": more.pop("show", "never"),
        "tooltip": {"mode": "single", "sort": "none"},
        **({"perPage": more.pop("per_page")} if "per_page" in more else {}),
    }
    queries = [series_query(sql("timeline", states=text, empty_text=empty_text))]
    custom = {"fillOpacity": 75, "lineWidth": 0, "spanNulls": True}
    # By thresholds Grafana would show ranges of numbers instead of the mapped texts.
    settings: Json = {"color": fixed(FLAT)} | more
    return panel("state-timeline", title, description, size, queries, options, custom=custom, **settings)


def markdown(title: str, content: str, size: tuple[int, int]) -> Json:
    """Return a panel of text."""
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


def row(title: str, panels: dict[int, Json] | None = None) -> Json:
    """Return a headline over panels.

    :arg panels: those that are hidden until the user opens the headline, by their numbers. Without any, the
        panels below the headline are always shown.
    """
    return {
        "type": "row",
        "title": title,
        "gridPos": {"w": 24, "h": 1},
        "collapsed": panels is not None,
        "panels": placed(panels or {}, 1),
    }


# -------------------------------------------------------------------------------------------------- layout


def placed(panels: dict[int, Json], top: int = 0) -> list[Json]:
    """Return panels from left to right and from top to bottom; a line is as high as its highest panel.

    :arg panels: by their numbers.
    :arg top: where the first line begins, in units of height.
    """
    lines: list[Json] = []
    x, y, height = 0, top, 0
    for number, each in panels.items():
        grid = each["gridPos"]
        if x + grid["w"] > 24:
            x, y, height = 0, y + height, 0
        hidden = [
            inner | {"gridPos": inner["gridPos"] | {"y": inner["gridPos"]["y"] + y}}
            for inner in each.get("panels", ())
        ]
        more = {"panels": hidden} if "panels" in each else {}
        lines.append({"id": number, **each, **more, "gridPos": {"x": x, "y": y, **grid}})
        x, height = x + grid["w"], max(height, grid["h"])
    return lines
