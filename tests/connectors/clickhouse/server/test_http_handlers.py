"""The REST routes of a ClickHouse server: the same as those of the embedded one."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from connectors.clickhouse.schema import FOLDER
from connectors.clickhouse.server import EmbeddedServer, api
from connectors.clickhouse.server.http_handlers import http_handlers
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store
from kernels.records import BAR, METRIC
from tests.support.embedded_server import ask, rest


def test_the_routes_of_a_clickhouse_server_are_these(server: EmbeddedServer, folder: Path) -> None:
    text = (FOLDER / "config.d" / "http_handlers.xml").read_text()
    assert text == http_handlers("pairflow"), "python -m connectors.clickhouse handlers makes it anew"
    bars, metrics = np.zeros(9, BAR), np.zeros(9, METRIC)
    bars["open_time"] = metrics["time"] = 1_700_000_000_000_000 + np.arange(9) * 60_000_000
    bars["timeframe"] = metrics["timeframe"] = 60_000_000
    columns = Columns(market="spot", source="binance", symbols=["AUSDT", "BUSDT"], pairs=["BUSDT/AUSDT"])
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("stored_bars", columns("bars", bars))
        store.insert("stored_pair_metrics", columns("pair_metrics", metrics))
    handlers = ElementTree.fromstring(text).find("http_handlers")
    assert handlers is not None
    assert handlers[-1].tag == "defaults", "else the server answers nothing but these routes"
    answered = []
    for route in api.ROUTES:
        path = api.PREFIX + route.path.format(
            symbol="AUSDT" if "bars" in route.path else "BTCUSDT",
            timeframe="1m",
            symbol_x="AUSDT",
            symbol_y="BUSDT",
        )
        for query in {"", "?limit=2" if any(p.name == "limit" for p in route.parameters) else ""}:
            for rule in handlers.iter("rule"):
                url = rule.findtext("url", "").removeprefix("regex:")
                fits = re.fullmatch(url, path) if rule.findtext("methods") == "GET" else None
                if fits and (rule.find("empty_query_string") is None) == bool(query):
                    break
            else:
                pytest.fail(f"no handler for {path}{query}")
            given: dict[str, str | int] = {f"param_{name}": value for name, value in fits.groupdict().items()}
            given |= {"param_limit": "2"} if query else {}
            status, _, body = ask(server, rule.findtext("handler/query", ""), None, **given)
            rows = json.loads(body or b"[]")  # of no rows the embedded engine makes nothing, when streamed
            assert (status, rows) == rest(server, path.removeprefix(api.PREFIX) + query)
            answered.append(len(rows))
    assert answered.count(2) == 3
    assert max(answered) == 1000
