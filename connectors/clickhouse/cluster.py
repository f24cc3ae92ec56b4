"""The schema for a ClickHouse cluster, made from the same files as that of one server.

```python
from connectors.clickhouse.cluster import Cluster

for statement in Cluster("events", "pairflow").schema():
    print(statement + ";")
```

Every table is replicated. A table that has a symbol or a pair in its sorting key is spread over the shards by
it: its rows are in ``<table>_local``, and ``<table>`` itself is Distributed, to write to and to read from. As
the symbol or pair is a part of the key, rows with the same key are in the same shard, so that FINAL finds
them all there. The other tables (rules, runs, the pipeline's own metrics) are small, and every server has all
their rows: a join with them needs no other server.

Servers need the macros ``shard`` and ``replica``, a Keeper, and the cluster in ``remote_servers`` with
``internal_replication``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from connectors.clickhouse.schema import STRING, VERSION, Kind, Statement, load

_TABLES = "cluster_tables"
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
        """Return everything that makes the schema in a new database.

        A database that has one already keeps its version, so that a flow which opens it upgrades it.

        :returns: Statements; all can be run again.
        """
        schema = load()
        yield self.make_database()
        for statement in schema.statements:
            yield from self.rewrite(statement.text)
        versions = f"{self.database}.schema_version"
        yield (
            f"INSERT INTO {versions} (version, fingerprint) SELECT {VERSION}, '{schema.fingerprint}'"  # noqa: S608
            f" WHERE (SELECT count() FROM {versions}) = 0"
        )

    def make_database(self) -> str:
        """Return the statement that makes the database on each server."""
        return f"CREATE DATABASE IF NOT EXISTS {self.database} ON CLUSTER {self.name}"

    def rewrite(self, text: str) -> list[str]:
        """Return the statements that do on the cluster what a statement does on one server.

        :arg text: A statement of the schema; names in it have no database.
        :returns: Statements that name their database, to be run in this order on any server.
        :raises ValueError: If the schema uses no such statement.
        """
        statement = Statement.read(text)
        if statement.kind is Kind.TABLE:
            return self._table(statement)
        # A materialized view works in each shard by itself: rows that arrive there belong there.
        made = self._rewritten(statement, local=statement.kind is Kind.MATERIALIZED)
        return [self._system_tables(), made] if "system.tables" in text else [made]

    def alter(self, name: str, changes: str) -> str:
        """Return a statement that changes a table or view on each server.

        :arg name: As it is named there, with ``_local`` where that is meant.
        :arg changes: What follows ``ALTER TABLE name``.
        """
        return f"ALTER TABLE {self.database}.{name} ON CLUSTER {self.name} {changes}"

    def modify_query(self, view: str, query: str) -> str:
        """Return a statement that gives a materialized view another query.

        :arg view: Its name.
        :arg query: As in a statement of the schema.
        """
        changed = _outside_strings(query, lambda sql: self._qualified(sql, local=True))
        return self.alter(view, f"MODIFY QUERY {changed}")

    @staticmethod
    def stored_as(name: str) -> tuple[str, ...]:
        """Return the names under which a table of the schema exists on each server.

        :arg name: Of the table.
        """
        return (f"{name}_local", name) if name in sharding() else (name,)

    def _table(self, statement: Statement) -> list[str]:
        name, text = statement.name, statement.text
        shard_key = sharding().get(name)
        stored = self.stored_as(name)[0]
        # Paths made of names: a server that joins later finds the table of its shard by the same statement.
        path, replica = (
            ("{shard}/{database}/{table}", "{replica}")
            if shard_key
            else ("all/{database}/{table}", "{shard}-{replica}")
        )

        def replicate(match: re.Match[str]) -> str:
            arguments = [f"'/clickhouse/tables/{path}'", f"'{replica}'", *filter(None, [match[2]])]
            return f"ENGINE = Replicated{match[1]}({', '.join(arguments)})"

        head = f"CREATE TABLE IF NOT EXISTS {self.database}.{stored} ON CLUSTER {self.name}"
        if statement.other:
            head += f" AS {self._named(statement.other, local=True)}"
        rest = text[statement.head_end :]
        made = [head + _outside_strings(rest, lambda sql: _ENGINE.sub(replicate, sql))]
        if shard_key:
            comment = re.search(rf"COMMENT ({STRING})\s*$", text)
            made.append(
                f"CREATE TABLE IF NOT EXISTS {self.database}.{name} ON CLUSTER {self.name}"
                f" AS {self.database}.{stored}\n"
                f"ENGINE = Distributed('{self.name}', '{self.database}', '{stored}', cityHash64({shard_key}))"
                + (f"\nCOMMENT {comment[1]}" if comment else "")
            )
        return made

    def _system_tables(self) -> str:
        # The function cluster() would read the same, but needs a right to reach any server; and AS
        # system.tables needs one to see all its columns.
        return (
            f"CREATE TABLE IF NOT EXISTS {self.database}.{_TABLES} ON CLUSTER {self.name}"
            " (database String, name String, engine String, total_rows Nullable(UInt64),"
            " total_bytes Nullable(UInt64))\n"
            f"ENGINE = Distributed('{self.name}', 'system', 'tables')\n"
            "COMMENT 'system.tables of one server of each shard'"
        )

    def _rewritten(self, statement: Statement, *, local: bool) -> str:
        start, end = statement.name_end - len(statement.name), statement.name_end
        on_cluster = "" if statement.kind is Kind.FILL else f" ON CLUSTER {self.name}"
        head = f"{statement.text[:start]}{self.database}.{statement.name}{on_cluster}"
        return head + _outside_strings(statement.text[end:], lambda sql: self._qualified(sql, local=local))

    def _qualified(self, sql: str, *, local: bool) -> str:
        """Put the database before tables and views, as another database is current where ON CLUSTER runs."""
        known = load().objects

        def qualify(match: re.Match[str]) -> str:
            return f"{match[1]} {self._named(match[2], local=local)}" if match[2] in known else match[0]

        sql = _REFERENCE.sub(qualify, sql).replace("system.tables", f"{self.database}.{_TABLES}")
        return sql.replace("currentDatabase()", f"'{self.database}'")

    def _named(self, name: str, *, local: bool) -> str:
        return f"{self.database}.{self.stored_as(name)[0] if local else name}"


def sharding() -> dict[str, str]:
    """Return the tables that are spread over shards, each with the column that decides where a row is."""
    found = {}
    for table in load().tables.values():
        key = re.search(r"ORDER BY \(([^)]*)\)", table.options)
        columns = [name for name in re.findall(r"\w+", key[1]) if name in ("symbol", "pair")] if key else []
        if columns:
            found[table.name] = columns[0]
    return found


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    parts: Sequence[str] = re.split(f"({STRING})", text)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))
