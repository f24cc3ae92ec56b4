"""The dashboard of the pipeline itself: feed, lag, gaps, steps, store, and the quality of the data."""

from typing import Any

from grafana.dashboard import dashboard as framed
from grafana.dashboard import data_panel, variables
from grafana.levels import LAG_SECONDS, WEIGHT_LIMIT
from grafana.panels import (
    BAD,
    FLAT,
    GOOD,
    HOW_TO_START,
    LINE,
    NO_ANSWER,
    NO_BARS,
    RED_CORNER,
    WARN,
    Json,
    override,
    pattern_mapping,
    prometheus_query,
    row,
    series_query,
    table,
    table_query,
    thresholds,
    tiles,
    time_series,
    timeline,
    value_mapping,
)
from grafana.sql import quoted, sql

_NO_SAMPLES = f"The flow has written nothing about itself in this time range. {HOW_TO_START}"

_STEP = "labels['step']"
_TABLE = "labels['table']"

_FILLED = {**LINE, "fillOpacity": 15}
_STACKED = {**LINE, "fillOpacity": 25, "stacking": {"mode": "normal", "group": "A"}}


def dashboard() -> Json:
    """Return the dashboard."""
    subject = "concat('of ', ${y:singlequote}, ' at ', ${bars:singlequote})"
    panels = {
        1: data_panel("pairflow-pipeline", sql("pipeline/stored"), subject),
        2: _now(),
        3: row("Feed"),
        4: _connections(),
        **_feed(),
        11: _gaps(),
        12: row("Steps and store"),
        **_steps(),
        **_store(),
        19: row("Quality of the data"),
        20: _quality(),
        21: _runs(),
        22: row("Seen from outside (Prometheus)", _outside()),
    }
    return framed(
        "pairflow-pipeline",
        "Pipeline",
        "Whether the flow does its work: feed, lag, gaps, steps, store, quality of the data.",
        panels,
        variables(pair=False, selection=False),
        refresh="10s",  # a refresh cancels queries that are still running, and this dashboard has many
    )


# ------------------------------------------------------------------------------------------- small panels


def _small(title: str, description: str, queries: list[Json], custom: Json = LINE, **more: Any) -> Json:
    """Return a panel about the pipeline, a third of the page wide; further arguments are those of `panel`."""
    settings: Json = {"interval": "5s", "maxDataPoints": 600, "empty": _NO_SAMPLES, "min": 0} | more
    return time_series(title, description, (8, 7), queries, custom, **settings)


def _gauges(labels: dict[str, str]) -> Json:
    """Return a query of some gauges of the pipeline.

    :arg labels: names of the gauges, and what the panel calls them.
    """
    return series_query(sql("pipeline/gauges", names=quoted(*labels), labels=quoted(*labels.values())))


def _rate(counter: str, series: str, ref: str = "A") -> Json:
    """Return a query of the growth of a counter per second.

    :arg series: SQL of the name of a series.
    """
    return series_query(sql("pipeline/rate", counter=counter, series=series), ref)


def _mean(counter: str, per: str, series: str) -> Json:
    """Return a query of the growth of a counter for each unit of the counter `per`.

    :arg series: SQL of the name of a series.
    """
    return series_query(sql("pipeline/mean", counter=counter, per=per, series=series))


# --------------------------------------------------------------------------------------------------- now


def _now() -> Json:
    return tiles(
        "Now",
        "The newest sample in the last minute of the time range; the flow takes one every 5 s. Rows waiting"
        " are taken and not stored yet.",
        (19, 4),
        sql("pipeline/now"),
        empty="The flow has said nothing in the last minute: is it running?"
        " Start it with make run or make demo.",
        fields="/^(?!rate$|n$).*/",
        sizes={"titleSize": 13, "valueSize": 19},
        overrides=[
            override("Trades/s", unit="short", decimals=0),
            override(
                "Bar end to stored",
                unit="s",
                decimals=2,
                thresholds=thresholds((None, "text"), (LAG_SECONDS / 2, WARN), (LAG_SECONDS, BAD)),
            ),
            override("Live connections", thresholds=thresholds((None, WARN), (1, "text"))),
            override("Open gaps", thresholds=thresholds((None, "text"), (1, WARN))),
            override("Rows waiting", unit="short", thresholds=thresholds((None, "text"), (100_000, WARN))),
            override("Inserts failing for", unit="s", thresholds=thresholds((None, "text"), (0.001, BAD))),
            override("Memory", unit="bytes"),
        ],
    )


# ---------------------------------------------------------------------------------------------------- feed


def _connections() -> Json:
    states = {
        "1": ("connecting", WARN),
        "2": ("live", GOOD),
        "3": ("retiring", "blue"),
        "0": ("silent", FLAT),
    }
    return timeline(
        "Connections",
        "State of each connection to the exchange. The next one is opened before the last must end.",
        (24, 4),
        sql("pipeline/connections"),
        empty_text="None: is the flow running?",
        empty=NO_ANSWER,
        mappings=value_mapping(states),
        show="auto",
        interval="5s",
        maxDataPoints=600,
    )


def _feed() -> dict[int, Json]:
    return {
        5: _small(
            "Trades",
            "Trades that entered the flow, each second.",
            [_rate("pairflow_trades_total", "'trades'")],
            _FILLED,
            unit="short",
            calcs=("mean", "max"),
        ),
        6: _lag(),
        7: _buffers(),
        8: _losses(),
        9: _back_fill(),
        10: _request_weight(),
    }


def _lag() -> Json:
    labels = {"pairflow_receive_lag_seconds": "receipt", "pairflow_bar_lag_seconds": "bar end to stored"}
    return _small(
        "Lag",
        "Receipt: from the exchange's event time to its arrival here, difference of the clocks included."
        " Stored: from the end of the newest bar to when it can be queried.",
        [_gauges(labels)],
        {**LINE, "thresholdsStyle": {"mode": "dashed"}},
        unit="s",
        thresholds=thresholds((None, "transparent"), (LAG_SECONDS, BAD)),
        calcs=("mean", "max"),
    )


def _buffers() -> Json:
    labels = {
        "pairflow_buffered_bytes": "bytes to decode",
        "pairflow_held_trades": "trades held",
        "pairflow_rows_waiting": "rows to store",
    }
    return _small(
        "Buffers",
        "Bytes received and not decoded yet; trades that wait for missing ids; rows not stored yet.",
        [_gauges(labels)],
        unit="short",
        calcs=("lastNotNull", "max"),
    )


def _losses() -> Json:
    labels = {
        "pairflow_reconnections_total": "reconnections",
        "pairflow_overflows_total": "dropped messages",
        "pairflow_unavailable_trades_total": "trades lost for good",
    }
    return _small(
        "Reconnections and losses",
        "Since the flow started: connections opened because another was lost or had to end; messages dropped"
        " because the queue was full, whose trades are then fetched by REST; trades that never came and"
        " never will.",
        [_gauges(labels)],
        unit="short",
    )


def _back_fill() -> Json:
    labels = {
        "pairflow_restored_trades_total": "restored",
        "pairflow_duplicates_total": "duplicates",
        "pairflow_rest_requests_total": "REST requests",
    }
    return _small(
        "Back-fill",
        "Trades restored by REST and duplicates dropped, since the flow started.",
        [_gauges(labels)],
        unit="short",
    )


def _request_weight() -> Json:
    return _small(
        "Request weight used",
        f"Of the {WEIGHT_LIMIT} a minute that the exchange allows this address, by all programs behind it.",
        [_gauges({"pairflow_weight_used": "weight"})],
        {**_FILLED, "thresholdsStyle": {"mode": "dashed"}},
        thresholds=thresholds((None, "transparent"), (WEIGHT_LIMIT * 0.8, WARN), (WEIGHT_LIMIT, BAD)),
        max=WEIGHT_LIMIT,
    )


def _gaps() -> Json:
    repairs = pattern_mapping(("^open$", WARN), ("^unavailable$", BAD), ("^(rest|late)$", GOOD))
    return table(
        "Gaps and their repair",
        "Stretches of trade ids that did not arrive by themselves: in the time range, and all that are open.",
        (24, 7),
        [table_query(sql("pipeline/gaps"))],
        empty=f"No gap in this time range: every trade id arrived by itself.{RED_CORNER}",
        overrides=[
            override("Took", unit="s", decimals=1),
            override("Repair", custom__cellOptions={"type": "color-text"}, mappings=repairs),
        ],
    )


# ----------------------------------------------------------------------------------------- steps and store


def _steps() -> dict[int, Json]:
    return {
        13: _small(
            "Time of a batch, by step",
            "Mean time that a step of the flow takes for one batch.",
            [_mean("pairflow_step_seconds_total", "pairflow_step_batches_total", _STEP)],
            unit="s",
            calcs=("mean", "max"),
        ),
        14: _small(
            "Time spent, by step",
            "Part of a core that a step keeps busy. Near 100 % in all, the flow cannot take more.",
            [_rate("pairflow_step_seconds_total", _STEP)],
            _STACKED,
            unit="percentunit",
            max=1,
            calcs=("mean",),
        ),
        15: _small(
            "Process",
            "Memory (left) and cores in use (right) of the flow's process, an embedded store included.",
            [
                _gauges({"process_resident_memory_bytes": "memory"}),
                _rate("process_cpu_seconds_total", "'cores'", "B"),
            ],
            unit="bytes",
            displayName="${__field.labels.series}",
            overrides=[override("/cores$/", unit="none", decimals=2, custom__axisPlacement="right")],
        ),
    }


def _store() -> dict[int, Json]:
    failures = {
        "pairflow_insert_failing_seconds": "failing for, s",
        "pairflow_insert_failures_total": "attempts",
        "pairflow_late_trades_total": "trades too late for their bar",
    }
    return {
        16: _small(
            "Time of an insert, by table",
            "Mean time that ClickHouse takes for one insert.",
            [_mean("pairflow_table_insert_seconds_total", "pairflow_table_inserts_total", _TABLE)],
            unit="s",
            calcs=("mean", "max"),
        ),
        17: _small(
            "Rows stored, by table",
            "Rows written each second.",
            [_rate("pairflow_rows_written_total", _TABLE)],
            _STACKED,
            unit="short",
            calcs=("mean",),
        ),
        18: _small(
            "Failures",
            "Seconds for which inserts have been failing (0: they work), and attempts repeated since the"
            " flow started.",
            [_gauges(failures)],
            unit="short",
        ),
    }


# ------------------------------------------------------------------------------------- quality of the data


def _quality() -> Json:
    def colored(field: str, color: str) -> Json:
        return override(
            field,
            thresholds=thresholds((None, "text"), (1, color)),
            color={"mode": "thresholds"},
            custom__cellOptions={"type": "color-text"},
        )

    return table(
        "Quality of the bars, by hour",
        "At the shown timeframe. Missing ids: between the first and the last trade of the hour and in no"
        " bar. Provisional: ids are still being fetched. Revised: changed by a late trade.",
        (24, 8),
        [table_query(sql("pipeline/quality"))],
        empty=NO_BARS,
        overrides=[
            override("/Trades/", unit="short"),
            colored("Missing ids", BAD),
            colored("Provisional", WARN),
        ],
    )


def _runs() -> Json:
    return table(
        "Runs and versions",
        "The last starts of the flow, and what it ran on.",
        (24, 6),
        [table_query(sql("pipeline/runs"))],
        empty="The flow has never run on this store.",
        overrides=[
            override("Versions", custom__minWidth=240, custom__wrapText=True),
            override("/Symbols|Where/", custom__width=150, custom__wrapText=True),
            override("/Source|Market|Pairs/", custom__width=75),
        ],
    )


# -------------------------------------------------------------------------------------- seen from outside


def _outside() -> dict[int, Json]:
    """Return the panels about what Prometheus reads from the flow, by their numbers."""

    def scraped(title: str, description: str, expression: str, **more: Any) -> Json:
        return _small(
            title,
            description,
            [prometheus_query(expression, "{{instance}}")],
            empty="Prometheus has no samples. Let it scrape the flow's metrics port, PAIRFLOW_METRICS_PORT.",
            **more,
        )

    # Of all that Prometheus scrapes, the flow is what has shown this metric within a day.
    flow = "on (instance, job) group_left () (present_over_time(pairflow_trades_total[1d]))"
    return {
        23: scraped(
            "Flow answers",
            "1 while Prometheus can scrape the flow.",
            f"max by (instance) (up * {flow})",
            unit="short",
            max=1,
        ),
        24: scraped(
            "Trades",
            "Trades that entered the flow, each second.",
            "rate(pairflow_trades_total[$__rate_interval])",
            unit="short",
        ),
        25: scraped(
            "Market seen until",
            "How far behind the clock the flow has seen the market.",
            "time() - pairflow_watermark_seconds",
            unit="s",
        ),
        26: scraped(
            "Inserts failing for",
            "How long ClickHouse has refused what the flow writes.",
            "pairflow_insert_failing_seconds",
            unit="s",
        ),
        27: scraped("Open gaps", "Ranges of ids that are missing.", "pairflow_open_gaps", unit="short"),
        28: scraped(
            "Memory",
            "Of the flow's process.",
            "process_resident_memory_bytes and on (instance, job) pairflow_trades_total",
            unit="bytes",
        ),
    }
