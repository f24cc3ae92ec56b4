"""The REST routes, and what describes them."""

import io
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store
from kernels.records import BAR, METRIC
from tests.support.embedded_server import TRADES, rest


def test_rest_gives_the_last_rows_oldest_first(server: EmbeddedServer) -> None:
    _, ticks = rest(server, "/ticks/BTCUSDT?market=spot&limit=2")
    assert [tick["id"] for tick in ticks] == [TRADES - 2, TRADES - 1]
    assert ticks[0]["time"] == "2023-11-14T22:16:39.998000Z"
    path = "/ticks/BTCUSDT?market=spot&from=2023-11-14T22:13:20Z&to=2023-11-14T22:13:20.003Z"
    assert [tick["id"] for tick in rest(server, path)[1]] == [0, 1, 2]
    assert rest(server, "/ticks/ETHUSDT?market=spot") == (200, [])
    assert rest(server, f"/ticks/{urllib.parse.quote('币安人生USDT')}") == (200, [])


def test_rest_says_how_the_run_is_doing(server: EmbeddedServer, folder: Path) -> None:
    status = rest(server, "/status")[1]
    assert (status["status"], status["updated"], status["lag_seconds"]) == ("stopped", None, None)
    names = ["pairflow_frames_total", "pairflow_frames_total", "pairflow_connection", "pairflow_held_trades"]
    labels = [[("kind", "trades")], [("kind", "other")], [("name", "ws0"), ("state", "live")], []]
    now = time.time_ns() // 1_000_000
    samples = pa.table(
        {
            "time": pa.array([now] * 4, pa.timestamp("ms", "UTC")),
            "name": names,
            "labels": pa.array(labels, pa.map_(pa.string(), pa.string())),
            "value": [40.0, 2.0, 1.0, 7.0],
        }
    )
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("pipeline_metrics", samples)
    for path in ("", "/", "/status"):
        status = rest(server, path)[1]
        assert (status["status"], status["market"], status["messages_received"]) == ("running", "spot", 42)
        assert status["symbols"][:2] == ["BTCUSDT", "ETHUSDT"]
        assert status["timeframes"] == ["tick", "1s", "1m"]
        assert status["feed"]["connections"] == {"ws0": "live"}
        assert status["buffers"]["held_trades"] == 7
        assert status["stored_rows"]["trades"] == TRADES


def test_rest_gives_bars_and_statistics(server: EmbeddedServer, client: Client, folder: Path) -> None:
    bars, metrics = np.zeros(3, BAR), np.zeros(3, METRIC)
    bars["open_time"] = metrics["time"] = 1_700_000_040_000_000 + np.arange(3) * 60_000_000
    bars["timeframe"] = metrics["timeframe"] = 60_000_000
    bars["close"], metrics["z_score"], metrics["window"] = [1, 2, 3], [0.5, np.nan, np.inf], [20, 20, 50]
    symbols = ["BTCUSDT", "ETHUSDT"]
    columns = Columns(market="spot", source="binance", symbols=symbols, pairs=["ETHUSDT/BTCUSDT"])
    with Store.open(f"chdb://{folder}/store") as store:
        store.insert("stored_bars", columns("bars", bars))
        store.insert("stored_pair_metrics", columns("pair_metrics", metrics))
    assert [bar["close"] for bar in rest(server, "/bars/BTCUSDT/1m?limit=2")[1]] == [2, 3]
    rows = rest(server, "/analytics/BTCUSDT/ETHUSDT/1m")[1]
    assert [(row["pair"], row["z_score"]) for row in rows] == [
        ("ETHUSDT/BTCUSDT", 0.5),
        ("ETHUSDT/BTCUSDT", None),
        ("ETHUSDT/BTCUSDT", None),
    ]
    assert len(rest(server, "/analytics/BTCUSDT/ETHUSDT/1m?window=20")[1]) == 2
    assert rest(server, "/analytics/BTCUSDT/ETHUSDT/1s") == (200, [])
    assert [row["pair"] for row in rest(server, "/ranking")[1]] == ["ETHUSDT/BTCUSDT"] * 2
    stored = rest(server, "/status")[1]["stored_rows"]
    assert (stored["trades"], stored["bars"]) == (TRADES, 3)


def test_rest_exports_other_formats(server: EmbeddedServer) -> None:
    url = f"http://{server.host}:{server.port}/api/v1/ticks/BTCUSDT?market=spot&limit=3&format="
    with urllib.request.urlopen(url + "csv") as response:
        assert response.read().count(b"\n") == 4
    with urllib.request.urlopen(url + "parquet") as response:
        assert pq.read_table(io.BytesIO(response.read()))["id"].to_pylist() == list(range(TRADES - 3, TRADES))
    with urllib.request.urlopen(url + "json") as response:
        assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
    with urllib.request.urlopen(url + "ndjson") as response:
        assert response.headers["Content-Type"] == "application/x-ndjson; charset=UTF-8"
        assert len([json.loads(line) for line in response]) == 3


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/ticks/BTC'USDT", "symbol"),
        ("/ticks/BTCUSDT?limt=1", "unknown parameter 'limt'"),
        ("/ticks/BTCUSDT?limit=x", "number of rows"),
        ("/ticks/BTCUSDT?limit=1000000", "at most 100000"),
        ("/ticks/BTCUSDT?from=yesterday", "2024-08-09T12:00:00Z"),
        ("/ticks/BTCUSDT?from=2024-99-99", "2024-99-99"),
        ("/ticks/BTCUSDT?format=xls", "json, ndjson, csv, parquet"),
        ("/bars/BTCUSDT/hour", "tick, 1s, 1m, 5m"),
        ("/bars/BTCUSDT/1m?market=futures", "spot or usdm"),
        ("/analytics/BTCUSDT/ETHUSDT/1m?window=-1", "rolling window"),
    ],
)
def test_rest_says_what_it_expected(server: EmbeddedServer, path: str, word: str) -> None:
    status, answer = rest(server, path)
    assert status == 400
    assert word in answer["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/ticks/NOPE", "no symbol NOPE is watched: expected one of AUSDT, BTCUSDT"),
        ("/bars/NOPE/1m", "no symbol NOPE is watched"),
        ("/bars/BTCUSDT/7m", "no bars of 7m are made: expected one of 1s, 1m"),
        ("/bars/BTCUSDT/tick", "no bars of tick are made: expected one of 1s, 1m"),
        (
            "/analytics/ETHUSDT/BTCUSDT/1m",
            "no pair BTCUSDT/ETHUSDT (Y/X) is watched: expected one of BUSDT/AUSDT",
        ),
        ("/analytics/BTCUSDT/ETHUSDT/5m", "no statistics of 5m are made: expected one of tick, 1s, 1m"),
        ("/analytics/BTCUSDT/ETHUSDT/1m?window=7", "no window of 7 bars is computed: expected one of 20, 50"),
        (
            "/analytics/BTCUSDT/ETHUSDT/1m?method=tls",
            "no hedge ratio by tls is computed: expected one of ols",
        ),
    ],
)
@pytest.mark.parametrize("form", ["json", "csv"])
def test_rest_says_what_there_is_instead(server: EmbeddedServer, path: str, words: str, form: str) -> None:
    status, answer = rest(server, f"{path}{'&' if '?' in path else '?'}format={form}")
    assert status == 404
    assert answer["error"].startswith(words)
    assert "throwIf" not in answer["error"]


def test_rest_describes_itself(server: EmbeddedServer) -> None:
    _, document = rest(server, "/openapi.json")
    assert document["openapi"].startswith("3.")
    assert {"get", "post"} == set(document["paths"]["/api/v1/alerts"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
    with urllib.request.urlopen(f"http://{server.host}:{server.port}/docs") as response:
        page = response.read().decode()
    assert "/api/v1/openapi.json" in page
    assert not re.search(r"https?://|@import|<img|src=", page), "the page works without a network"
