"""Makes the schema in a new database, and brings an older one up to date.

A database keeps the version and the fingerprint of the schema that was applied last. Where they differ from
those of this program, all statements are applied: what is missing is created, views are replaced, and each
table is compared with its declaration, column by column. Each statement can be run again, so that an upgrade
that a crash or a full disk ended is done again when the store is next opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from connectors.clickhouse.cluster import Cluster
from connectors.clickhouse.errors import StoreError, no_space
from connectors.clickhouse.metadata import damaged_files
from connectors.clickhouse.schema import VERSION, Column, Kind, Statement, Table, load

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from connectors.clickhouse.store import Dsn

_DOING = "preparing the database"

# Definitions take some 100 kB. This much more is asked for, as other programs write to the disk, too.
_LEAST_FREE_BYTES = 20_000_000


# For embedded stores: no query here uses statistics of columns, and to keep them takes a seventh of the time
# of a replay. Servers keep what their owner chose, and older ones do not know the setting.
_NO_STATISTICS = "MODIFY SETTING auto_statistics_types = ''"


class Upgrade:
    """Brings one database to the schema of this program.

    :arg client: Connected to it.
    :arg dsn: Which it is.
    :arg cluster: Name of the cluster of its server; "" for none.
    :arg folder: Of an embedded store; None for a server.
    """

    def __init__(self, client: Client, dsn: Dsn, cluster: str, folder: Path | None) -> None:
        self._client = client
        self._dsn = dsn
        self._database = dsn.database
        self._cluster = Cluster(cluster, dsn.database) if cluster else None
        self._folder = folder
        self._schema = load()

    def run(self, *, create: bool, repaired: bool = False) -> None:
        """Bring the database up to date.

        :arg create: Whether to make a database where there is none.
        :arg repaired: Whether definitions had to be made again: then they are compared with the schema.
        :raises StoreError: If there is none, or it has a later schema or another form than is expected.
        """
        client, database = self._client, self._database
        found = bool(client.command(f"EXISTS DATABASE {database}"))
        if not found and create:
            # Only then: a user who may fill a database often may not create one.
            self._check_disk()
            client.command(
                self._cluster.make_database()
                if self._cluster
                else f"CREATE DATABASE IF NOT EXISTS {database}"
            )
        if found or create:
            client.database = database
        version, fingerprint = self._applied() if found else (None, "")
        if version is None and not create:
            msg = f"there is no pairflow database in {self._dsn}: start the flow first, or name another store"
            raise StoreError(msg)
        if (version or 0) > VERSION:
            msg = (
                f"the store in {self._dsn} has schema {version}, newer than schema {VERSION} of this program:"
                " update the program, or name another store"
            )
            raise StoreError(msg)
        existing = self._existing()
        missing = self._schema.objects - existing
        if not (repaired or missing or (version, fingerprint) != (VERSION, self._schema.fingerprint)):
            return
        self._check_disk()
        try:
            self._apply(existing)
        finally:
            # chDB reports no error where it could not write a definition.
            if self._folder is not None and damaged_files(self._folder, self._database, self._schema):
                raise no_space(self._dsn, _DOING)
        client.command(
            "INSERT INTO schema_version (version, fingerprint) SELECT {version:UInt32}, {fingerprint:String}",
            {"version": VERSION, "fingerprint": self._schema.fingerprint},
        )

    def _applied(self) -> tuple[int | None, str]:
        """Return version and fingerprint of the schema that was applied last; None where none ever was."""
        if not self._client.command("EXISTS TABLE schema_version"):
            return None, ""
        if self._folder is None:
            self._check_cluster()
        # Earlier programs kept no fingerprint.
        rows = self._client.query("SELECT * FROM schema_version ORDER BY version, applied").named_results()
        last = list(rows)[-1:]
        return (last[0]["version"], last[0].get("fingerprint", "")) if last else (0, "")

    def _check_cluster(self) -> None:
        """Refuse to add plain tables to a database of a cluster, or replicated ones to another."""
        ((engine,),) = self._ask(
            "SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'schema_version'"
        )
        if engine.startswith("Replicated") != bool(self._cluster):
            msg = (
                f"the database {self._dsn} was made for one server: leave PAIRFLOW_CLICKHOUSE_CLUSTER empty, "
                "or name another database"
                if self._cluster
                else f"the database {self._dsn} was made for a cluster: "
                "name it in PAIRFLOW_CLICKHOUSE_CLUSTER"
            )
            raise StoreError(msg)

    def _check_disk(self) -> None:
        """Refuse to begin on a disk that is nearly full, where definitions would be cut off."""
        if self._folder is not None:
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
                raise no_space(self._dsn, _DOING)

    def _existing(self) -> frozenset[str]:
        """Return the names of the tables and views of the database."""
        return frozenset(
            str(name)
            for (name,) in self._ask("SELECT name FROM system.tables WHERE database = currentDatabase()")
        )

    def _apply(self, existing: frozenset[str]) -> None:
        """Apply all statements.

        :arg existing: Names of the tables and views that were there before.
        """
        for statement in self._schema.statements:
            filled_by = self._schema.materialized.get(statement.name)
            if statement.kind is Kind.FILL and filled_by in existing:
                continue
            for each in self._cluster.rewrite(statement.text) if self._cluster else [statement.text]:
                self._client.command(each)
            if statement.kind is Kind.TABLE and statement.name in existing:
                self._bring_up_to_date(self._schema.tables[statement.name])
            elif statement.kind is Kind.TABLE and self._folder is not None:
                self._alter(statement.name, [_NO_STATISTICS])
            elif statement.kind is Kind.MATERIALIZED and statement.name in existing:
                self._modify_query(statement)
        self._comment_views()

    def _modify_query(self, statement: Statement) -> None:
        query = re.split(r"\sAS\s", statement.text, maxsplit=1)[1]
        if self._cluster:
            self._client.command(self._cluster.modify_query(statement.name, query))
        else:
            self._client.command(f"ALTER TABLE {statement.name} MODIFY QUERY {query}")

    def _bring_up_to_date(self, table: Table) -> None:
        """Change a table where it differs from its declaration. What users added to it stays."""
        stored, *distributed = self._cluster.stored_as(table.name) if self._cluster else (table.name,)
        self._alter(stored, self._changes(table, stored))
        for name in distributed:
            self._alter(name, self._column_changes(table, name, is_stored=False))

    def _changes(self, table: Table, stored: str) -> Iterator[str]:
        yield from self._column_changes(table, stored, is_stored=True)
        ((comment, definition),) = self._ask(
            "SELECT comment, create_table_query FROM system.tables"
            " WHERE database = currentDatabase() AND name = {name:String}",
            name=stored,
        )
        for name, check in table.constraints.items():
            if f"CONSTRAINT {name} CHECK {check}" not in definition:
                yield f"DROP CONSTRAINT IF EXISTS {name}"
                yield f"ADD CONSTRAINT IF NOT EXISTS {name} CHECK {check}"
        if comment != table.comment:
            yield f"MODIFY COMMENT {_quoted(table.comment)}"
        if self._folder is not None and "auto_statistics_types" not in definition:
            yield _NO_STATISTICS

    def _column_changes(self, table: Table, name: str, *, is_stored: bool) -> Iterator[str]:
        """Compare columns; a Distributed table has no codecs and defaults of its own."""
        rows = self._ask(
            "SELECT name, type, default_expression, comment, compression_codec FROM system.columns"
            " WHERE database = currentDatabase() AND table = {name:String}",
            name=name,
        )
        found = {row[0]: row[1:] for row in rows}
        place = "FIRST"
        for column in table.columns:
            if column.name not in found:
                yield f"ADD COLUMN IF NOT EXISTS {column.declaration} {place}"
            else:
                yield from _column_change(column, found[column.name], is_stored=is_stored)
            place = f"AFTER {column.name}"

    def _comment_views(self) -> None:
        """Give columns of views the comments of the columns of the same name that they are read from."""
        rows = self._ask(
            "SELECT table, name, comment FROM system.columns WHERE database = currentDatabase()"
            " ORDER BY position"
        )
        comments: dict[str, dict[str, str]] = {}
        for table, name, comment in rows:
            comments.setdefault(table, {})[name] = comment
        for view, read in self._schema.views.items():
            changes = []
            for name, comment in comments.get(view, {}).items():
                inherited = next(filter(None, (comments.get(each, {}).get(name) for each in read)), "")
                if inherited and not comment:
                    comments[view][name] = inherited
                    changes.append(f"COMMENT COLUMN {name} {_quoted(inherited)}")
            self._alter(view, changes)

    def _alter(self, name: str, changes: Iterable[str]) -> None:
        if text := ", ".join(changes):
            self._client.command(
                self._cluster.alter(name, text) if self._cluster else f"ALTER TABLE {name} {text}"
            )

    def _ask(self, sql: str, **parameters: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._client.query(sql, parameters=parameters).result_rows]


def _column_change(column: Column, found: tuple[str, ...], *, is_stored: bool) -> Iterator[str]:
    """Compare a column with its type, default, comment and codec as they are found."""
    kind, default, comment, codec = found
    # ClickHouse adds the width of the type to Delta.
    codec = re.sub(r"\bDelta\(\d\)", "Delta", codec.removeprefix("CODEC(").removesuffix(")"))
    if kind != column.type or (is_stored and (default, codec) != (column.default, column.codec)):
        yield f"MODIFY COLUMN {column.declaration}"
    elif comment != column.comment:
        yield f"COMMENT COLUMN {column.name} {_quoted(column.comment)}"
    if is_stored and default and not column.default:
        yield f"MODIFY COLUMN {column.name} REMOVE DEFAULT"
    if is_stored and codec and not column.codec:
        yield f"MODIFY COLUMN {column.name} REMOVE CODEC"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
