"""Metrics that dashboards name are metrics of the flow, and their PromQL is valid."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
from prometheus_client import REGISTRY

from connectors import telemetry
from connectors.binance.feed import FeedStatus
from connectors.clickhouse.sink import SinkStatus
from tests.support.grafana_dashboards import DASHBOARDS, PANELS


def metric_names() -> set[str]:
    """Names of the samples that a running flow shows."""
    sink = SinkStatus()
    sink.rows_written["bars"] = sink.inserts_by_table["bars"] = 1
    sink.insert_seconds["bars"] = 0.1
    shown = [*REGISTRY.collect(), *telemetry._Statuses(sink, FeedStatus()).collect()]
    names = {sample.name for metric in shown for sample in metric.samples}
    # Labelled ones have no sample before their first use.
    return (
        names
        | {f"{metric.name}_total" for metric in shown if metric.type == "counter"}
        | {metric.name for metric in shown if metric.type == "gauge"}
    )


def test_metrics_that_dashboards_name_are_metrics_that_the_flow_has() -> None:
    known = metric_names() | {"up"}
    used = set(re.findall(r"\b(?:pairflow|process)_\w+", json.dumps(DASHBOARDS)))
    assert used <= known, used - known
    assert len(used) > 20


def metrics_of(node: Any) -> Iterator[str]:
    """Names of the metrics that a parsed expression of PromQL selects."""
    match node:
        case promql_parser.VectorSelector():
            yield node.name or ""
        case promql_parser.MatrixSelector():
            yield from metrics_of(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from metrics_of(node.lhs)
            yield from metrics_of(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from metrics_of(argument)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            yield from metrics_of(node.expr)


EXPRESSIONS = [query["expr"] for _, panel in PANELS for query in panel.get("targets", []) if "expr" in query]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_for_prometheus_parse(expression: str) -> None:
    names = set(metrics_of(promql_parser.parse(expression.replace("$__rate_interval", "1m"))))
    assert names
    assert names <= metric_names() | {"up"}
