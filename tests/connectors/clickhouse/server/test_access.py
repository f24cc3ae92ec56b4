"""Who is answered: not a web page, and with a password whoever knows it."""

import uuid
from pathlib import Path

import clickhouse_connect
import pytest

from connectors.clickhouse.server import EmbeddedServer
from connectors.clickhouse.store import Store, StoreError
from tests.support.embedded_server import TRADES, ask, rest


def test_web_pages_are_not_answered(server: EmbeddedServer) -> None:
    assert ask(server, "SELECT 1", {"Host": "rebound.example"})[0] == 403
    assert ask(server, "SELECT 1", {"Origin": "https://page.example"})[0] == 403
    assert ask(server, "SELECT 1", {"Origin": "http://localhost:3000"})[0] == 200


def test_an_open_address_needs_a_password(folder: Path, server: EmbeddedServer) -> None:
    with Store.open(f"chdb://{folder}/store") as store:
        with pytest.raises(StoreError, match="PAIRFLOW_SERVER_PASSWORD"):
            EmbeddedServer(store, host="0.0.0.0")
        guarded = EmbeddedServer(store, port=0, password="open sesame")
        guarded.start()
        try:
            assert ask(guarded, "SELECT 1")[0] == 403
            assert ask(guarded, "SELECT 1", {"X-ClickHouse-Key": "open sesame"})[2] == b"1\n"
            with clickhouse_connect.get_client(
                host=guarded.host, port=guarded.port, username="default", password="open sesame"
            ) as client:
                assert client.command("SELECT 1") == 1
            address = f"{guarded.host}:{guarded.port}/pairflow"
            with Store.open(f"clickhouse://reader:open%20sesame@{address}", create=False) as reader:
                assert reader.query("SELECT count() FROM trades") == [(TRADES,)]
            with pytest.raises(StoreError, match="refused user 'reader': check user and password"):
                Store.open(f"clickhouse://reader:open@{address}")
        finally:
            guarded.stop()


@pytest.mark.parametrize("origin", ["null", "file://", "https://page.example", "http://[", ""])
def test_a_page_without_a_name_changes_no_rules(server: EmbeddedServer, origin: str) -> None:
    """A frame in a sandbox, or a page from a file, sends "null" as its origin."""
    headers = {"Origin": origin}
    assert ask(server, "SELECT 1", headers)[0] == 403
    assert ask(server, "INSERT INTO alert_rules (threshold) VALUES (1)", headers)[0] == 403
    assert rest(server, "/alerts", headers=headers)[0] == 403
    assert rest(server, "/alerts", method="POST", body={"threshold": 1}, headers=headers)[0] == 403
    assert rest(server, f"/alerts/{uuid.uuid4()}", method="DELETE", headers=headers)[0] == 403
    assert rest(server, "/alerts") == (200, [])
