"""The schema for a ClickHouse cluster, made from the same numbered files as that of one server.

```python
from connectors.clickhouse.cluster import Cluster

for statement in Cluster("events", "pairflow").schema():
    print(statement + ";")
```

Every table is replicated. One with a symbol or a pair in its sorting key is spread over the shards by it:
its rows lie in ``<table>_local``, and ``<table>`` itself is Distributed, to write to and to read from. As the
symbol or pair is a part of the key, rows of one key meet in one shard, so that FINAL keeps its promise there.
The others (rules, runs, the pipeline's own metrics) are small, and every server has all of them: a join with
them stays local.

Servers need the macros ``shard`` and ``replica``, a Keeper, and the cluster in ``remote_servers`` with
``internal_replication``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from connectors.clickhouse.schema import VERSIONS, schema_files, statements

_TABLES = "cluster_tables"
_STRING = r"'(?:[^'\\]|\\.|'')*'"
_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)(?: AS (\w+))?")
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (\w+)")
_MATERIALIZED = re.compile(r"CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+)(?=\s+TO \w)")
_ALTER = re.compile(r"ALTER TABLE (\w+)")
_CODECS = re.compile(r"ALTER TABLE \w+(?:\s+MODIFY COLUMN \w+ CODEC\([\w, ]+\),?)+")
_INSERT = re.compile(r"INSERT INTO (\w+)\b(?! *\.)")
_ENGINE = re.compile(r"\bENGINE = (\w*MergeTree)(?:\(([^)]*)\))?")
_REFERENCE = re.compile(r"\b(FROM|JOIN|INTO|TO) (\w+)\b(?! *\.)")


@dataclass(frozen=True)
class Cluster:
    """A cluster, by its name in ``remote_servers``, and the database in it.

    :arg name: Of the cluster.
    :arg database: On each of its servers.
    """

    name: str
    database: str

    def schema(self) -> Iterator[str]:
        """Return everything that makes the schema, from nothing.

        :returns: Statements; all can be run again.
        """
        files = schema_files()
        yield from self.rewrite(f"CREATE DATABASE IF NOT EXISTS {self.database}")
        yield from self.rewrite(VERSIONS)
        for file in files:
            for statement in statements(file.read_text()):
                yield from self.rewrite(statement)
            yield f"INSERT INTO {self.database}.schema_version (version) SELECT {int(file.name[:3])}"

    def rewrite(self, statement: str) -> list[str]:
        """Return what does on the cluster what a statement does on one server.

        :arg statement: Of a schema file; names in it have no database.
        :returns: Statements that name their database, to be run in this order on any server.
        :raises ValueError: If it is of a kind that is not known here.
        """
        if statement.startswith("CREATE DATABASE"):
            return [f"{statement} ON CLUSTER {self.name}"]
        if (match := _TABLE.match(statement)) and _ENGINE.search(statement):
            return self._table(match[1], statement)
        if _MATERIALIZED.match(statement):
            # In each shard by itself: what arrives there is what belongs there.
            return [self._outside_strings(statement, lambda sql: self._on_cluster(sql, _MATERIALIZED, True))]
        if _VIEW.match(statement):
            made = self._outside_strings(statement, lambda sql: self._on_cluster(sql, _VIEW, False))
            return [self._system_tables(), made] if "system.tables" in statement else [made]
        if (match := _ALTER.match(statement)) and (
            match[1] not in sharding() or _CODECS.fullmatch(statement)
        ):
            return [self._altered(match[1], statement)]
        if (match := _INSERT.match(statement)) and match[1] in objects():
            return [self._outside_strings(statement, lambda sql: self._qualified(sql, local=False))]
        msg = f"no rule how a cluster does this: {statement.splitlines()[0]}"
        raise ValueError(msg)

    def _altered(self, name: str, statement: str) -> str:
        # Of a table in shards only how each stores its rows: more would concern the Distributed one, too.
        if local := name in sharding():
            statement = statement.replace(name, f"{name}_local", 1)
        in_shards = local or "MODIFY QUERY" in statement
        return self._outside_strings(statement, lambda sql: self._on_cluster(sql, _ALTER, in_shards))

    def _table(self, name: str, statement: str) -> list[str]:
        shard_key = sharding().get(name)
        stored = f"{name}_local" if shard_key else name
        # By names, so that a server that joins later finds the table of its shard by the same statement.
        path, replica = (
            ("{shard}/{database}/{table}", "{replica}")
            if shard_key
            else ("all/{database}/{table}", "{shard}-{replica}")
        )

        def replicate(match: re.Match[str]) -> str:
            arguments = [f"'/clickhouse/tables/{path}'", f"'{replica}'", *filter(None, [match[2]])]
            return f"ENGINE = Replicated{match[1]}({', '.join(arguments)})"

        def head(match: re.Match[str]) -> str:
            made = f"CREATE TABLE IF NOT EXISTS {self.database}.{stored} ON CLUSTER {self.name}"
            return f"{made} AS {self._named(match[2], local=True)}" if match[2] else made

        def rewrite(sql: str) -> str:
            return _ENGINE.sub(replicate, _TABLE.sub(head, sql))

        made = [self._outside_strings(statement, rewrite)]
        if shard_key:
            comment = re.search(rf"COMMENT ({_STRING})\s*$", statement)
            made.append(
                f"CREATE TABLE IF NOT EXISTS {self.database}.{name} ON CLUSTER {self.name}"
                f" AS {self.database}.{stored}\n"
                f"ENGINE = Distributed('{self.name}', '{self.database}', '{stored}', cityHash64({shard_key}))"
                + (f"\nCOMMENT {comment[1]}" if comment else "")
            )
        return made

    def _system_tables(self) -> str:
        # What cluster() would read, but that function needs a right to reach any server; and AS system.tables
        # one to see all its columns.
        return (
            f"CREATE TABLE IF NOT EXISTS {self.database}.{_TABLES} ON CLUSTER {self.name}"
            " (database String, name String, engine String, total_rows Nullable(UInt64),"
            " total_bytes Nullable(UInt64))\n"
            f"ENGINE = Distributed('{self.name}', 'system', 'tables')\n"
            "COMMENT 'system.tables of one server of each shard'"
        )

    def _on_cluster(self, sql: str, head: re.Pattern[str], local: bool) -> str:
        sql = head.sub(lambda m: f"{m[0][: -len(m[1])]}{self.database}.{m[1]} ON CLUSTER {self.name}", sql)
        return self._qualified(sql, local=local)

    def _qualified(self, sql: str, *, local: bool) -> str:
        """Put the database in front of tables and views, as ON CLUSTER runs elsewhere in another one."""
        known = objects()

        def qualify(match: re.Match[str]) -> str:
            return f"{match[1]} {self._named(match[2], local=local)}" if match[2] in known else match[0]

        sql = _REFERENCE.sub(qualify, sql).replace("system.tables", f"{self.database}.{_TABLES}")
        return sql.replace("currentDatabase()", f"'{self.database}'")

    def _named(self, name: str, *, local: bool) -> str:
        return f"{self.database}.{name}{'_local' if local and name in sharding() else ''}"

    @staticmethod
    def _outside_strings(statement: str, change: Callable[[str], str]) -> str:
        parts: Sequence[str] = re.split(f"({_STRING})", statement)
        return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


@cache
def objects() -> frozenset[str]:
    """Return the names of all tables and views of the schema."""
    made = [statement for file in schema_files() for statement in statements(file.read_text())]
    heads = (_TABLE, _VIEW, _MATERIALIZED)
    return frozenset(match[1] for text in made for head in heads if (match := head.match(text)))


@cache
def sharding() -> dict[str, str]:
    """Return the tables that are spread over shards, each with the column that decides where a row lies."""
    found = {}
    for file in schema_files():
        for statement in statements(file.read_text()):
            if (match := _TABLE.match(statement)) and (key := re.search(r"ORDER BY \(([^)]*)\)", statement)):
                columns = [column for column in re.findall(r"\w+", key[1]) if column in ("symbol", "pair")]
                if columns:
                    found[match[1]] = columns[0]
    return found
