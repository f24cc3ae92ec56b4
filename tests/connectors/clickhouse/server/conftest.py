"""A store of trades, served to the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import numpy as np
import pytest
from clickhouse_connect.driver.client import Client

from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.sink import Columns
from connectors.clickhouse.store import Store
from kernels.records import SECOND, TRADE
from tests.support.embedded_server import SECRET, TRADES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    (folder / "secret").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    trades = np.zeros(TRADES, TRADE)
    trades["id"] = trades["first_id"] = trades["last_id"] = np.arange(TRADES)
    trades["time"] = 1_700_000_000_000_000 + trades["id"] * 1_000
    trades["price"] = 100 + trades["id"] / 64
    columns = Columns(market="spot", source="binance", symbols=["BTCUSDT"], pairs=[])
    with Store.open(f"chdb://{folder}/store", source="binance") as store:
        store.insert("stored_trades", columns("trades", trades))
        # What the REST routes know by name.
        store.record_run(
            source="binance",
            market="spot",
            symbols=["BTCUSDT", "ETHUSDT", "AUSDT", "BUSDT", "币安人生USDT"],
            pairs=["ETHUSDT/BTCUSDT", "BUSDT/AUSDT"],
            settings={"timeframes": [0, SECOND, 60 * SECOND], "windows": [20, 50], "methods": ["ols"]},
        )
        server = EmbeddedServer(store, port=0)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with clickhouse_connect.get_client(host=server.host, port=server.port, database="pairflow") as client:
        yield client
