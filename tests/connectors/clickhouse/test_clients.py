"""Clients of other languages ask a running flow: each reads what curl reads, and none may write.

They download a client, and for Go compile it: minutes. So they run with PAIRFLOW_TEST_CLIENTS=1 only.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from tests.support.paths import ROOT
from tests.support.processes import finish, free_port, running_flow

pytestmark = pytest.mark.skipif(
    "PAIRFLOW_TEST_CLIENTS" not in os.environ,
    reason="set PAIRFLOW_TEST_CLIENTS=1 to try curl and the Python, Node, Go and JDBC clients",
)

ENOUGH = 200
LONG = 300_000
"""Rows of an answer that comes in several blocks."""


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.strip()


@dataclass
class Flow:
    """A running flow, and what curl read from it."""

    port: int
    url: str
    sql: str
    trades: int
    ids: int
    highest: float

    def check(self, told: str) -> None:
        """Compare what a client printed: rows, sum of ids, highest price, rows of a long answer, refusal."""
        found = json.loads(told)
        assert found[:2] == [self.trades, self.ids]
        assert found[2] == self.highest
        assert found[3] == LONG
        assert "READONLY" in found[4]


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    folder = tmp_path_factory.mktemp("asked")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"

    def curl(sql: str) -> str:
        command = ["curl", "-sf", "--data-binary", sql, f"{url}?database=pairflow"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    settings = {"SOURCE": "simulator", "HTTP_PORT": str(port), "STATUS_INTERVAL": "0"}
    with running_flow(folder / "data", **settings) as process:
        newest = f"SELECT max(id) FROM trades WHERE symbol = 'BTCUSDT' HAVING count() >= {ENOUGH}"
        until = time.monotonic() + 120
        while not (last := curl(newest).strip()) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.5)
        assert last, "the flow stored no trades"
        sql = f"SELECT id, time, price, symbol FROM trades WHERE symbol = 'BTCUSDT' AND id <= {last}"
        rows = list(csv.DictReader(io.StringIO(curl(f"{sql} FORMAT CSVWithNames"))))
        assert len(rows) >= ENOUGH
        ids, highest = sum(int(row["id"]) for row in rows), max(float(row["price"]) for row in rows)
        yield Flow(port, url, sql, len(rows), ids, highest)
        assert process.poll() is None, "the flow did not outlive its clients"
        process.terminate()
        finish(process)


@needs("curl")
def test_curl_is_refused_a_change_and_told_why(flow: Flow) -> None:
    command = ["curl", "-s", "-w", " %{http_code}", "--data-binary", "DROP TABLE stored_trades", flow.url]
    told = run(*command, folder=ROOT)
    assert told.startswith("Code: 164. DB::Exception: ")
    assert told.endswith(" 403")


@needs("curl")
def test_the_python_client_asks(flow: Flow) -> None:
    with clickhouse_connect.get_client(host="127.0.0.1", port=flow.port, database="pairflow") as client:
        rows = client.query(flow.sql).result_rows
        long = client.query(f"SELECT number FROM numbers({LONG})").row_count
        with pytest.raises(ClickHouseError):
            client.insert("stored_trades", [[1]], column_names=["id"])
        with pytest.raises(ClickHouseError) as refused:
            client.command("DROP TABLE stored_trades")
    found = [len(rows), sum(row[0] for row in rows), max(row[2] for row in rows), long, str(refused.value)]
    flow.check(json.dumps(found))


NODE = """
const { createClient } = require('@clickhouse/client')
const [url, sql, long] = process.argv.slice(2)
const c = createClient({ url, database: 'pairflow', compression: { response: true }, log: { level: 127 } })
async function main() {
  let rows = 0, ids = 0, highest = 0, many = 0, refused = ''
  const format = 'JSONCompactEachRow'
  for await (const part of (await c.query({ query: sql, format })).stream())
    for (const row of part) {
      const [id, , price] = row.json()
      rows++, ids += Number(id), highest = Math.max(highest, price)
    }
  const query = { query: 'SELECT number FROM numbers({n:UInt64})', format, query_params: { n: long } }
  for await (const part of (await c.query(query)).stream()) many += part.length
  await c.insert({ table: 'stored_trades', values: [{ id: 1 }] }).catch(e => { refused = e.type })
  if (!(await c.ping()).success) throw new Error('no ping')
  console.log(JSON.stringify([rows, ids, highest, many, refused]))
  await c.close()
}
main()
"""


@needs("curl", "node", "npm")
def test_the_node_client_asks(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "ask.js").write_text(NODE)
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "@clickhouse/client", folder=tmp_path)
    flow.check(run("node", "ask.js", flow.url, flow.sql, str(LONG), folder=tmp_path))


GO = """
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	conn, err := clickhouse.Open(&clickhouse.Options{Protocol: clickhouse.HTTP, Addr: []string{os.Args[1]},
		Auth: clickhouse.Auth{Database: "pairflow"},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		Settings: clickhouse.Settings{"max_execution_time": 34}})
	must(err)
	background := context.Background()
	ask := "SELECT id, time, price, [symbol], map(symbol, id) FROM (" + os.Args[2] + ")"
	found, err := conn.Query(background, ask)
	must(err)
	var rows, ids, many int64
	var highest float64
	for found.Next() {
		var id int64
		var time time.Time
		var price float64
		var symbols []string
		var byName map[string]int64
		must(found.Scan(&id, &time, &price, &symbols, &byName))
		rows, ids, highest = rows+1, ids+byName[symbols[0]], max(highest, price)
	}
	must(found.Err())
	long, err := conn.Query(background, "SELECT number FROM numbers("+os.Args[3]+")")
	must(err)
	for long.Next() {
		many++
	}
	must(long.Err())
	refused := conn.Exec(background, "DROP TABLE stored_trades")
	told, err := json.Marshal([]any{rows, ids, highest, many, fmt.Sprint(refused)})
	must(err)
	fmt.Println(string(told))
}
"""


@needs("curl", "go")
def test_the_go_client_that_grafana_uses_asks(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    run("go", "mod", "init", "ask", folder=tmp_path)
    run("go", "get", "github.com/ClickHouse/clickhouse-go/v2", folder=tmp_path)
    address = f"127.0.0.1:{flow.port}"
    flow.check(run("go", "run", ".", address, flow.sql, str(LONG), folder=tmp_path))


JAVA = """
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

public class Ask {
    public static void main(String[] given) throws SQLException {
        long rows = 0, ids = 0, many = 0, columns = 0;
        double highest = 0;
        String refused = "";
        try (var connection = DriverManager.getConnection(given[0], new Properties())) {
            var ask = "SELECT * FROM (" + given[1] + ") WHERE symbol = ? AND id >= ?";
            try (var asked = connection.prepareStatement(ask)) {
                asked.setString(1, "BTCUSDT");
                asked.setLong(2, 0);
                try (var found = asked.executeQuery()) {
                    for (; found.next(); rows++) {
                        ids += found.getLong("id");
                        highest = Math.max(highest, found.getDouble(3));
                        if (found.getTimestamp("time").getTime() <= 0) throw new SQLException("no time");
                    }
                }
            }
            try (var statement = connection.createStatement();
                    var found = statement.executeQuery("SELECT number FROM numbers(" + given[2] + ")")) {
                while (found.next()) many++;
            }
            try (var found = connection.getMetaData().getColumns(null, "pairflow", "bars", "%")) {
                while (found.next()) columns++;
            }
            if (columns == 0) throw new SQLException("no columns");
            try (var statement = connection.createStatement()) {
                statement.execute("DROP TABLE stored_trades");
            } catch (SQLException ex) {
                refused = ex.getMessage().contains("(READONLY)") ? "READONLY" : "something else";
            }
        }
        System.out.println("[" + rows + "," + ids + "," + highest + "," + many + ",\\"" + refused + "\\"]");
    }
}
"""


POM = """
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>ask</groupId>
  <artifactId>ask</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>com.clickhouse</groupId>
      <artifactId>clickhouse-jdbc</artifactId>
      <version>0.9.8</version>
      <classifier>all</classifier>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-api</artifactId>
      <version>2.0.17</version>
    </dependency>
  </dependencies>
</project>
"""


@needs("curl", "java", "mvn")
def test_the_jdbc_driver_asks(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    (tmp_path / "pom.xml").write_text(POM)
    run("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=.", folder=tmp_path)
    url = f"jdbc:clickhouse:{flow.url}pairflow"
    flow.check(run("java", "-cp", "*", "Ask.java", url, flow.sql, str(LONG), folder=tmp_path))
