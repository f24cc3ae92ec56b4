"""The schema of a cluster: made from that of one server, parsed by ClickHouse, run on Distributed tables."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.clickhouse.__main__ import main
from connectors.clickhouse.cluster import Cluster, sharding
from connectors.clickhouse.schema import VERSION, load, statements
from connectors.clickhouse.store import Store, StoreError
from tests.support.older_schema import older_schema

CLUSTER = Cluster("events", "pairflow")
MADE = list(CLUSTER.schema())
SOURCE = [each.text for each in load().statements]
DDL = [each for each in MADE if each.startswith(("CREATE", "ALTER", "DROP"))]


def run_chdb(folder: Path, config: str, statements: list[str], questions: list[str]) -> list[str]:
    """Run SQL in a process of its own, as an engine reads its configuration once.

    :returns: the answers to the questions.
    """
    folder.mkdir(exist_ok=True)
    (folder / "config.xml").write_text(f"<clickhouse>{config}</clickhouse>")
    code = (
        "import chdb, json, sys\n"
        "folder, statements, questions = json.load(sys.stdin)\n"
        "c = chdb.connect(f'{folder}/db?config-file={folder}/config.xml')\n"
        "for each in statements: c.query(each)\n"
        "print(json.dumps([c.query(each, 'TSV').bytes().decode() for each in questions]))\n"
    )
    given = json.dumps([str(folder), statements, questions])
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[str] = json.loads(done.stdout)
    return answers


def parsed(folder: Path, texts: list[str]) -> list[str]:
    """Format statements by ClickHouse's own parser, which refuses what it does not understand."""
    quoted = [text.replace("\\", "\\\\").replace("'", "\\'") for text in texts]
    return run_chdb(folder, "", [], [f"SELECT formatQuerySingleLine('{text}')" for text in quoted])


def test_clickhouse_parses_every_statement(tmp_path: Path) -> None:
    for text, formatted in zip(MADE, parsed(tmp_path, MADE), strict=True):
        # Where ON CLUSTER is in the wrong place, it is taken for something else.
        assert text not in DDL or " ON CLUSTER events" in formatted, formatted


def test_every_statement_of_the_files_is_there() -> None:
    made = {
        match[1]
        for each in DDL
        if (match := re.match(r"CREATE [A-Z ]*? (?:IF NOT EXISTS )?pairflow\.(\w+)", each))
    }
    local = {f"{name}_local" for name in sharding()}
    assert made == load().objects | local | {"cluster_tables"}


def test_the_version_is_kept_in_a_new_database_alone() -> None:
    """An older one is upgraded by the flow, which compares its tables: these statements do not."""
    assert MADE[-1] == (
        "INSERT INTO pairflow.schema_version (version, fingerprint)"
        f" SELECT {VERSION}, '{load().fingerprint}' WHERE (SELECT count() FROM pairflow.schema_version) = 0"
    )


def test_every_table_is_replicated_and_keeps_how_it_merges() -> None:
    before = dict(
        re.findall(r"CREATE TABLE IF NOT EXISTS (\w+).*?ENGINE = (\w+(?:\(\w+\))?)", "\0".join(SOURCE), re.S)
    )
    assert len(before) > 8
    for name, engine in before.items():
        stored = f"{name}_local" if name in sharding() else name
        (text,) = (
            each for each in DDL if re.match(rf"CREATE TABLE IF NOT EXISTS pairflow\.{stored}\b", each)
        )
        path = (
            "{shard}/{database}/{table}', '{replica}'"
            if name in sharding()
            else "all/{database}/{table}', '{shard}-{replica}'"
        )
        kind, _, version = engine.rstrip(")").partition("(")
        assert (
            f"ENGINE = Replicated{kind}('/clickhouse/tables/{path}{', ' if version else ''}{version})" in text
        )


def test_rows_of_one_key_meet_in_one_shard() -> None:
    assert set(sharding()) == {name for name in load().objects if name.startswith("stored_")}
    for name, column in sharding().items():
        (key,) = re.findall(
            rf"CREATE TABLE IF NOT EXISTS {name}\b.*?ORDER BY \(([^)]*)\)", "\0".join(SOURCE), re.S
        )
        assert column in key.split(", "), "a shard is chosen by a column of the sorting key"
        assert (
            f"ENGINE = Distributed('events', 'pairflow', '{name}_local', cityHash64({column}))"
            in "\0".join(DDL)
        )


def test_a_table_is_filled_by_another_inside_its_shard() -> None:
    made = [each for each in DDL if "MATERIALIZED" in each]
    for text, rows in zip(made, ("pair_metrics", "signals"), strict=True):
        assert f"TO pairflow.stored_latest_{rows}_local" in text
        assert f"\nAS SELECT * FROM pairflow.stored_{rows}_local" in text


def test_a_view_is_commented_on_each_server() -> None:
    made = [each for each in DDL if each.startswith("ALTER")]
    assert len(made) > 5
    assert all(
        re.match(r"ALTER TABLE pairflow\.\w+ ON CLUSTER events\s+COMMENT COLUMN", each) for each in made
    )


@pytest.mark.parametrize(
    "statement",
    [
        "OPTIMIZE TABLE bars",
        "DROP VIEW bars",
        "DROP TABLE IF EXISTS bars",
        "TRUNCATE TABLE runs",
        "DELETE FROM alert_rules WHERE true",
        "CREATE USER somebody",
        "CREATE TABLE runs (a Int8) ENGINE = MergeTree ORDER BY a",  # again, it would fail
        "CREATE TABLE IF NOT EXISTS x (a Int8) ENGINE = Log",  # not replicated
        "CREATE TABLE IF NOT EXISTS x AS stored_bars",  # likewise
        "CREATE MATERIALIZED VIEW IF NOT EXISTS x ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a",  # likewise
        "CREATE VIEW x AS SELECT 1",
        "ALTER TABLE stored_bars ADD COLUMN x Int8",  # which is two tables in a cluster
        "INSERT INTO runs SELECT 1",
        "INSERT INTO other.runs SELECT 1",
        "INSERT INTO FUNCTION null('a Int8') SELECT 1",
    ],
)
def test_an_unknown_kind_of_statement_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a statement that the schema does not use: {statement}")):
        CLUSTER.rewrite(statement)


def test_every_table_is_named_with_its_database(tmp_path: Path) -> None:
    """A server of the cluster runs a statement in a database of its own choice."""
    views = [each for each in MADE if re.match(r"CREATE .*VIEW |INSERT", each)]
    assert len(views) > 20
    loose = {}
    for text, tree in zip(views, run_chdb(tmp_path, "", [], [f"EXPLAIN AST {each}" for each in views])):
        named = re.findall(r"TableIdentifier ([\w.]+)", tree)
        # The tree does not tell these: what is written to, and IN table.
        named += re.findall(r"\b(?:INTO|TO|IN) ([a-z_][\w.]*)", re.sub(r"'(?:[^'\\]|\\.)*'", "''", text))
        assert named, text
        within = set(re.findall(r"\b(\w+) AS\s*\(\s*SELECT", text))  # WITH name AS (SELECT ..)
        loose[text] = [name for name in named if not name.startswith("pairflow.") and name not in within]
    assert {text: names for text, names in loose.items() if names} == {}


def test_the_command_prints_statements_that_can_be_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--cluster", "events"]) == 0
    assert list(statements(capsys.readouterr().out)) == MADE


def test_an_embedded_store_belongs_to_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match="is embedded and belongs to no cluster: leave PAIRFLOW_CLICKHOUSE_CLUSTER"
    ):
        Store.open(f"chdb://{tmp_path}/data", cluster="events")


# Rows in two versions, of four symbols and three pairs, newest a few seconds old by market time.
ROWS = [
    "INSERT INTO {db}.stored_trades (market, symbol, id, time, price, quantity, first_id, last_id, in_bars,"
    " source) SELECT 'spot', ['A', 'B', 'C', 'D'][number % 4 + 1] AS s, intDiv(number, 4) AS i,"
    " toDateTime64('2024-08-09 12:00:00', 6, 'UTC') + i, 100 + number % 7, 1, i, i, 1,"
    " 'recording' FROM numbers(800)",
    "INSERT INTO {db}.stored_bars (market, symbol, timeframe, open_time, open, high, low, close, volume,"
    " trades, first_id, last_id, version, source) SELECT 'spot', ['A', 'B', 'C', 'D'][number % 4 + 1], '1s',"
    " toDateTime64('2024-08-09 12:00:00', 6, 'UTC') + intDiv(number % 800, 4), 100, 109, 90,"
    " 100 + (number % 11) / 8, 4, 1, intDiv(number % 800, 4), intDiv(number % 800, 4),"
    " 1 + (number >= 800), 'recording' FROM numbers(1600)",
    "INSERT INTO {db}.stored_pair_metrics (market, pair, timeframe, window, method, time, z_score,"
    " hedge_ratio, observations, version, source)"
    " SELECT 'spot', ['B/A', 'C/A', 'D/A'][number % 3 + 1], '1s', 60, 'ols',"
    " toDateTime64('2024-08-09 12:00:00', 6, 'UTC') + intDiv(number % 600, 3), (number % 13) / 2 - 3, 2,"
    " 60, 1 + (number >= 600), 'recording' FROM numbers(1200)",
    "INSERT INTO {db}.stored_signals (market, pair, timeframe, window, method, time, signal, z_score,"
    " version, source) SELECT 'spot', ['B/A', 'C/A', 'D/A'][number % 3 + 1], '1s', 60, 'ols',"
    " toDateTime64('2024-08-09 12:00:00', 6, 'UTC') + number, ['short', 'exit', 'long'][number % 3 + 1],"
    " 2, 1, 'recording' FROM numbers(20)",
    "INSERT INTO {db}.stored_gaps (market, symbol, first_id, last_id, detected, cause, repair, version)"
    " SELECT 'spot', ['A', 'B'][number % 2 + 1], number, number + 5, '2024-08-09 12:00:00', 'hole', 'rest', 1"
    " FROM numbers(6)",
    "INSERT INTO {db}.alert_rules (id, metric, condition, threshold)"
    " SELECT '61f0c404-5cb3-11e7-907b-a6006ad3dba0', 'z_score', 'abs >', 1",
    "INSERT INTO {db}.runs (started, source, market, symbols, pairs, settings)"
    " SELECT '2024-08-09 12:00:00', 'recording', 'spot', ['A', 'B'], ['B/A'],"
    """ '{{"timeframes": [1000000], "windows": [60], "methods": ["ols"]}}'""",
]
VIEWS = sorted(
    name
    for name in load().objects
    if re.search(rf"CREATE OR REPLACE VIEW {name} AS", "\0".join(SOURCE))
    and not name.startswith(("api_", "table_sizes"))
)
LIMITS = "since = '2024-01-01', until = '2025-01-01', row_limit = 10, market = ''"
ASKED = [
    *VIEWS,
    f"api_ticks(symbol = 'A', {LIMITS})",
    f"api_bars(symbol = 'A', timeframe = '1s', {LIMITS})",
    f"api_analytics(pair = 'B/A', timeframe = '1s', window = 0, method = '', {LIMITS})",
]


def unreplicated(text: str) -> str:
    """Leave out what needs a Keeper, which the embedded engine has not."""
    text = text.replace(" ON CLUSTER events", "")
    return re.sub(r"Replicated(\w+)\('[^']*', '[^']*'(?:, )?", r"\1(", text)


def cluster_of(shards: int) -> str:
    shard = (
        "<shard><internal_replication>true</internal_replication>"
        "<replica><host>127.0.0.1</host><port>9000</port></replica></shard>"
    )
    return f"<tcp_port>9000</tcp_port><remote_servers><events>{shard * shards}</events></remote_servers>"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What a question is answered over Distributed tables, and by the schema of one server."""
    made = [unreplicated(each) for each in MADE]
    made += ["CREATE DATABASE one", "USE one", *SOURCE]
    made += [row.format(db=db) for row in ROWS for db in ("pairflow", "one")]
    questions = [f"SELECT * FROM {db}.{each} ORDER BY ALL" for each in ASKED for db in ("pairflow", "one")]
    questions += [f"SELECT table, stored_rows FROM {db}.table_sizes" for db in ("pairflow", "one")]
    found = run_chdb(tmp_path_factory.mktemp("cluster"), cluster_of(1), made, questions)
    return dict(zip([*ASKED, "table_sizes"], zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize("question", [*ASKED, "table_sizes"])
def test_a_view_answers_over_distributed_tables_as_on_one_server(
    answers: dict[str, tuple[str, str]], question: str
) -> None:
    distributed, plain = answers[question]
    assert plain != ""
    assert distributed == plain


def test_no_view_asks_a_shard_to_ask_all_shards(tmp_path: Path) -> None:
    # ClickHouse refuses it (distributed_product_mode) from two shards on; here both are the same tables.
    made = [unreplicated(each) for each in MADE] + [row.format(db="pairflow") for row in ROWS]
    questions = [f"SELECT count() > 0 FROM (SELECT * FROM pairflow.{each})" for each in ASKED]
    assert run_chdb(tmp_path, cluster_of(2), made, questions) == ["1\n"] * len(ASKED)


# In a process of its own: opens a database as a server of a cluster would be, without replication.
OPENED = """
import sys
from pathlib import Path
import clickhouse_connect
import pyarrow as pa
from connectors.clickhouse import schema
from connectors.clickhouse.store import Dsn, Store, StoreError
from connectors.clickhouse.upgrade import Upgrade
from tests.connectors.clickhouse.test_cluster import unreplicated

client = clickhouse_connect.get_client(interface="chdb", path=sys.argv[1])
run, sent = client.command, []

def command(text, *more, **options):
    sent.append(text)
    return run(unreplicated(text), *more, **options)

client.command = command
dsn = Dsn(database="pairflow", host="server", port=8123)
store = Store(dsn, client, "events")

def upgrade():
    sent.clear()
    Upgrade(client, dsn, "events", None).run(create=True)
"""


def opened(folder: Path, code: str, *arguments: str) -> list[str]:
    """Run code in which `store` is of a cluster; return the lines that it prints."""
    (folder / "config.xml").write_text(f"<clickhouse>{cluster_of(1)}</clickhouse>")
    path = f"{folder}/db?config-file={folder}/config.xml"
    command = [sys.executable, "-c", OPENED + code, path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_a_store_of_a_cluster_makes_and_fills_it(tmp_path: Path) -> None:
    code = """
upgrade()
changes = [each for each in sent if each.startswith(("CREATE", "ALTER", "DROP"))]
print(all(" ON CLUSTER events" in each for each in changes), len(changes) > 60)
rows = pa.table({
    "market": ["spot"] * 3, "symbol": ["A", "B", "A"], "id": [1, 1, 2],
    "time": pa.array([0] * 3, pa.timestamp("us")),
})
for _ in range(2):
    store.insert("stored_trades", rows)
print(store.query("SELECT count() FROM trades"), store.query("SELECT max(version) FROM schema_version"))
try:
    upgrade()  # whose tables are not replicated, without a Keeper
except StoreError as error:
    print(error)
"""
    assert opened(tmp_path, code) == [
        "True True",
        f"[(3,)] [({VERSION},)]",
        "the database server:8123/pairflow was made for one server: leave PAIRFLOW_CLICKHOUSE_CLUSTER empty, "
        "or name another database",
    ]


def test_an_older_database_of_a_cluster_is_upgraded_in_place(tmp_path: Path) -> None:
    older = older_schema(tmp_path / "older")
    code = """
Upgrade._check_cluster = lambda self: None
now, schema.FOLDER = schema.FOLDER, Path(sys.argv[2])
upgrade()
run("INSERT INTO pairflow.stored_pair_metrics (market, pair, time, z_score) SELECT 'spot', 'B/A', 1, 2.5")
schema.FOLDER = now
for _ in range(2):
    upgrade()
    tables = {"stored_pair_metrics", "stored_latest_pair_metrics", "alert_rules"}
    print(sorted({each.split()[2] for each in sent if each.startswith("ALTER") and "COLUMN" in each
                  and each.split()[2].removeprefix("pairflow.").removesuffix("_local") in tables}))
run("INSERT INTO pairflow.stored_pair_metrics (market, pair, time, z_score, hurst)"
    " SELECT 'spot', 'B/A', 2, 3.5, 0.5")
for view in ("pair_metrics", "latest_pair_metrics"):
    print(store.query(f"SELECT z_score, hurst FROM {view} ORDER BY time"))
for table in ("stored_pair_metrics", "stored_pair_metrics_local", "stored_latest_pair_metrics_local"):
    kinds = "SELECT groupArray((name, type, comment)) FROM system.columns WHERE table = {t:String}"
    found = store.query(kinds, {"t": table})[0][0]
    declared = schema.load().tables["stored_pair_metrics"].columns
    print([tuple(each) for each in found] == [(each.name, each.type, each.comment) for each in declared])
"""
    assert opened(tmp_path, code, str(older)) == [
        "['pairflow.alert_rules', 'pairflow.stored_latest_pair_metrics',"
        " 'pairflow.stored_latest_pair_metrics_local', 'pairflow.stored_pair_metrics',"
        " 'pairflow.stored_pair_metrics_local']",
        "[]",
        "[(2.5, 0.0), (3.5, 0.5)]",
        "[(3.5, 0.5)]",
        "True",
        "True",
        "True",
    ]
