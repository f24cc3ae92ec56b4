"""What all dashboards have: their frame, variables, links and annotations, and the panel Data."""

from typing import Any

from grafana.levels import STALE_SECONDS, Z_ENTRY, Z_EXIT
from grafana.panels import (
    BAD,
    CLICKHOUSE,
    GOOD,
    HOW_TO_START,
    Json,
    override,
    pattern_mapping,
    placed,
    table,
    table_query,
)
from grafana.sql import sql
from grafana.versions import DASHBOARD_SCHEMA, PLUGIN_VERSION


def dashboard(
    uid: str,
    title: str,
    description: str,
    panels: dict[int, Json],
    variables: list[Json],
    annotations: list[Json] | None = None,
    time_range: str = "15m",
    refresh: str = "5s",
) -> Json:
    """Return a dashboard.

    :arg panels: by their numbers, in the order in which they stand. Alert rules and links use the numbers: a
        new panel gets a number that was never used.
    :arg annotations: with the titles of the panels they are drawn on.
    :arg time_range: its length when the dashboard is opened.
    """
    numbers = {panel["title"]: number for number, panel in panels.items()}
    for each in annotations or []:
        each["filter"]["ids"] = [numbers[name] for name in each["filter"]["ids"]]
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["pairflow"],
        "schemaVersion": DASHBOARD_SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "liveNow": False,
        "time": {"from": f"now-{time_range}", "to": "now"},
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
        "panels": placed(panels),
    }


# ---------------------------------------------------------------------------------------------- variables

_SHOWN, _HIDDEN = 0, 2
_IN_URLS = ("market", "y", "x", "timeframe", "window", "method")


def variables(*, pair: bool, selection: bool = True) -> list[Json]:
    """Return the variables. All dashboards have all of them, so that links carry them on.

    :arg pair: whether the user can select the pair; otherwise the variables Y and X are hidden.
    :arg selection: whether the user can select market, timeframe, window and method.
    """
    leg, choice = (_SHOWN if pair else _HIDDEN), (_SHOWN if selection else _HIDDEN)
    return [
        _variable("market", "Market", sql("variables/market"), choice),
        _variable("y", "Y", sql("variables/y"), leg),
        _variable("x", "X", sql("variables/x"), leg),
        _variable("timeframe", "Timeframe", sql("variables/timeframe"), choice, "1s"),
        _variable("window", "Window", sql("variables/window"), choice, "60"),
        _variable("method", "Method", sql("variables/method"), choice, "ols"),
        _variable("bars", "Bars", sql("variables/bars"), _HIDDEN),
        _variable("bar_ms", "Length of a bar", sql("variables/bar_ms"), _HIDDEN),
        _variable("z_entry", "z-score of an entry", _z_level("z_entry", Z_ENTRY), _HIDDEN),
        _variable("z_exit", "z-score of an exit", _z_level("z_exit", Z_EXIT), _HIDDEN),
    ]


def _z_level(name: str, default: float) -> str:
    return sql("variables/z_level", name=name, default=default)


def _variable(name: str, label: str, text: str, hide: int, current: str = "") -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": CLICKHOUSE,
        "query": {"refId": "var", "queryType": "sql", "rawSql": text},
        "refresh": 1,
        "sort": 0,
        "hide": hide,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": hide == _HIDDEN and name not in _IN_URLS,
        **({"current": {"text": current, "value": current}} if current else {}),
    }


# -------------------------------------------------------------------------------------------------- links


def link(title: str, uid: str, more: str) -> Json:
    """Return a link to a dashboard that keeps what the user has selected.

    :arg more: further parameters of the URL.
    """
    kept = "&".join(f"var-{name}=${{{name}}}" for name in ("market", "timeframe", "window", "method"))
    if "var-y" not in more:
        kept += "&var-y=${y}&var-x=${x}"
    return {"title": title, "url": f"/d/{uid}?{kept}&{more}"}


TO_PAIR = link(
    "Open this pair", "pairflow-pair", "var-y=${__data.fields.y}&var-x=${__data.fields.x}&${__url_time_range}"
)
"""From a row with the columns y and x to the dashboard of that pair."""


def annotation(name: str, color: str, text: str, titles: list[str]) -> Json:
    """Return an annotation.

    :arg text: SQL.
    :arg titles: of the panels that it is drawn on.
    """
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
            "pluginVersion": PLUGIN_VERSION,
            "rawSql": text,
        },
    }


# ----------------------------------------------------------------------------------------- the panel Data


def data_panel(uid: str, stored: str, subject: str) -> Json:
    """Return the panel that says how fresh the data are.

    :arg uid: of the dashboard it stands in.
    :arg stored: query for the values of ``queries/data.sql``.
    :arg subject: SQL of a text that names what was looked for.
    """
    text = sql("data", stored=stored, subject=subject, how_to_start=HOW_TO_START, stale_seconds=STALE_SECONDS)
    colors = pattern_mapping(
        ("^(No |Outside).*", BAD), ("^Live.*", GOOD), ("^SIMULATED.*", "purple"), ("^Replay.*", "blue")
    )
    show_stored = link("Show the stored time", uid, "from=${__data.fields.from}&to=${__data.fields.to}")
    properties: dict[str, Any] = {
        "mappings": colors,
        "links": [show_stored],
        "custom__cellOptions": {"type": "color-text"},
        "custom__wrapText": True,
    }
    return table(
        "Data",
        "Whether what is shown is fresh. A click goes to the time that is stored.",
        (5, 4),
        [table_query(text)],
        empty="No answer from the store: is the flow running?",
        show_header=False,
        overrides=[
            override("Data", **properties),
            override("/^(from|to)$/", custom__hideFrom__viz=True),
        ],
    )
