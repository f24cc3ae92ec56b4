"""Stores that dashboards and alerts read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.clickhouse.store import Store
from tests.support.processes import run_flow, served
from tests.support.served import Served


@pytest.fixture(scope="session")
def replayed_store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store of the USD-M recordings, with every method."""
    folder = tmp_path_factory.mktemp("served") / "data"
    source = f"recording:{data / 'recorded' / 'usdm'}"
    run_flow(folder, SOURCE=source, MARKET="usdm", METHODS="ols,rls,kalman,tls", STATUS_INTERVAL="0")
    with served(folder) as store:
        yield store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store without rows."""
    folder = tmp_path_factory.mktemp("empty") / "data"
    Store.open(f"chdb://{folder}", source="binance").close()
    with served(folder) as store:
        yield store
