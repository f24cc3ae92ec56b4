"""The dashboard of signals and alerts: what fires, what fired, and the user's own rules."""

from grafana.dashboard import TO_PAIR, variables
from grafana.dashboard import dashboard as framed
from grafana.panels import (
    BAD,
    BARS,
    FLAT,
    GOOD,
    GRAFANA_ITSELF,
    LONG,
    POSITIONS,
    QUIET,
    RED_CORNER,
    SHORT,
    WARN,
    Json,
    fixed,
    markdown,
    override,
    pattern_mapping,
    series_query,
    table,
    table_query,
    thresholds,
    tiles,
    time_series,
    value_mapping,
)
from grafana.sql import sql

_HOW_TO = """
A rule is a row of `alert_rules`, evaluated every 10 s on every pair it fits, and notified through Grafana.

```sql
INSERT INTO alert_rules (name, pair, timeframe, metric, condition, threshold, for_seconds)
VALUES ('Far out', 'ETHUSDT/BTCUSDT', '1m', 'z_score', 'abs >', 2.5, 30)
```

`pair`, `timeframe`, `method` left out or empty, and `window` 0, mean all. `metric` is a number of `pair_metrics`; `condition` is
`>` `>=` `<` `<=`, with `abs` before it for the magnitude. `DELETE FROM alert_rules WHERE name = 'Far out'` removes a rule.
"""  # noqa: E501

_NO_SIGNAL = f"No signal in this time range: no z-score has passed an entry line.{RED_CORNER}"

_LEGS_HIDDEN = override("/^(y|x)$/", custom__hideFrom__viz=True)
_PAIR_OPENS = override(
    "Pair", links=[TO_PAIR], custom__cellOptions={"type": "color-text"}, color=fixed("blue")
)
# Short columns leave their room to names, on a narrow page too.
_NARROW = [override("Bars", custom__width=80), override("Method", custom__width=75)]


def dashboard() -> Json:
    """Return the dashboard."""
    panels = {
        1: _now(),
        2: _firing(),
        3: _history_of_alerts(),
        4: _states(),
        5: _rules(),
        6: markdown("How to write a rule", _HOW_TO, (24, 7)),
        7: _signals_over_time(),
        8: _history_of_signals(),
    }
    return framed(
        "pairflow-alerts",
        "Alerts",
        "What fires, what fired, and your own rules.",
        panels,
        variables(pair=False, selection=False),
        time_range="1h",
        refresh="10s",  # as often as rules are evaluated
    )


def _now() -> Json:
    return tiles(
        "Now",
        "Your own rules, and what the pipeline says.",
        (24, 4),
        sql("alerts/now"),
        sizes={"titleSize": 13, "valueSize": 22},
        overrides=[override("Open gaps", thresholds=thresholds((None, "text"), (1, WARN)))],
    )


def _firing() -> Json:
    return {
        "type": "alertlist",
        "title": "Firing now",
        "description": "All alerts of Grafana that are firing or about to.",
        "gridPos": {"w": 8, "h": 10},
        "options": {
            "viewMode": "list",
            "groupMode": "default",
            "groupBy": [],
            "maxItems": 50,
            "sortOrder": 3,
            "dashboardAlerts": False,
            "alertName": "",
            "alertInstanceLabelFilter": "",
            "stateFilter": {
                "firing": True,
                "pending": True,
                "recovering": True,
                "noData": True,
                "error": True,
                "normal": False,
            },
        },
    }


def _history_of_alerts() -> Json:
    """Return the list of annotations that Grafana makes of alerts of this dashboard; see rules.yaml."""
    query = {
        "refId": "A",
        "datasource": GRAFANA_ITSELF,
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
    states = pattern_mapping(("^Alerting.*", BAD), ("^Normal.*", GOOD), ("^Pending.*", WARN), (".*", FLAT))
    pair_of_labels = {
        "source": "text",
        "format": "regexp",
        "regExp": r"/[ {](?:pair|symbol)=(?<For>[^,}]+)/",
        "replace": False,
        "keepTime": False,
    }
    no_change = {"fieldName": "newState", "config": {"id": "regex", "options": {"value": "NoData|Updated"}}}
    order = {
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": columns,
    }
    return table(
        "History of alerts",
        "When alerts began and ended in the time range, as Grafana noted it.",
        (16, 10),
        [query],
        empty="No alert has begun or ended in this time range.",
        overrides=[
            override("State", mappings=states, custom__cellOptions={"type": "color-text"}, custom__width=130),
            override("Alert", custom__width=160),
            override("For", custom__width=150),
            override("Labels and values", custom__minWidth=240, custom__inspect=True),
        ],
        transformations=[
            {"id": "extractFields", "options": pair_of_labels},
            {"id": "filterByValue", "options": {"type": "exclude", "match": "any", "filters": [no_change]}},
            {"id": "organize", "options": order},
        ],
        sort_by=[("At", True)],
    )


def _states() -> Json:
    return table(
        "Your rules on every pair they fit",
        "The metric now, and whether its condition has held for long enough.",
        (24, 8),
        [table_query(sql("alerts/states"))],
        empty=f"No rule fits a pair that has statistics now. Write one: see below.{RED_CORNER}",
        overrides=[
            override(
                "State",
                mappings=value_mapping({"1": ("FIRING", BAD), "0": ("ok", GOOD)}),
                custom__width=75,
                custom__cellOptions={"type": "color-text"},
            ),
            _PAIR_OPENS,
            _LEGS_HIDDEN,
            *_NARROW,
            override("Now", custom__width=75),
        ],
    )


def _rules() -> Json:
    return table(
        "Your rules",
        "Rows of the table alert_rules.",
        (24, 7),
        [table_query(sql("alerts/rules"))],
        empty=f"No rules of your own yet: write one as the panel below shows.{RED_CORNER}",
        overrides=[
            override(
                "On",
                mappings=value_mapping({"1": ("on", GOOD), "0": ("off", FLAT)}),
                custom__width=45,
                custom__cellOptions={"type": "color-text"},
            ),
            override("For", unit="s", custom__width=60),
            *_NARROW,
        ],
    )


def _signals_over_time() -> Json:
    return time_series(
        "Signals over time",
        "Signals that the pipeline gave, all pairs.",
        (24, 6),
        [series_query(sql("alerts/signals_over_time"))],
        BARS,
        interval="5s",
        maxDataPoints=200,
        unit="short",
        calcs=("sum",),
        empty=_NO_SIGNAL,
        overrides=[
            override("short", color=fixed(SHORT)),
            override("long", color=fixed(LONG)),
            override("exit", color=fixed(QUIET)),
        ],
    )


def _history_of_signals() -> Json:
    return table(
        "History of signals",
        "The newest thousand in the time range; a click on a pair opens it.",
        (24, 10),
        [table_query(sql("alerts/signals"))],
        empty=_NO_SIGNAL,
        overrides=[
            override("Signal", mappings=POSITIONS, custom__cellOptions={"type": "color-text"}),
            override("/^Price of/", custom__align="right", custom__minWidth=85),
            override("z-score", decimals=2),
            override("Hedge ratio", decimals=5),
            _PAIR_OPENS,
            _LEGS_HIDDEN,
        ],
    )
