"""The files in which an embedded store keeps the definitions of its tables, and how lost ones are made again.

When the disk is full, chDB writes such a file empty or cut off and reports no error, also over a file that
was whole; the store then does not open any more. The rows are not touched. A definition is known from the
schema, and the folder of a table's rows from a link that chDB keeps, so the file can be written again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import structlog

from connectors.clickhouse.errors import StoreError
from connectors.clickhouse.schema import Schema, Table, marks

# Each part of a table's rows has this file.
_PARTS = "*/checksums.txt"

log = structlog.get_logger()


def damaged_files(folder: Path, database: str, schema: Schema) -> list[Path]:
    """Find definitions that are empty or, of tables and views of the schema, cut off.

    :arg folder: Of an embedded store.
    :arg database: Name of the schema's database.
    :arg schema: What its tables and views are.
    :returns: Their files.
    """
    metadata = folder / "metadata"
    ours = {metadata / database / f"{name}.sql" for name in schema.objects}
    files = [*metadata.glob("*.sql"), *metadata.glob("*/*.sql")]
    return sorted(
        file
        for file in files
        if file.stat().st_size == 0 or (file in ours and not _is_whole(file.read_text()))
    )


def repair(folder: Path, database: str, schema: Schema) -> bool:
    """Make damaged definitions again where nothing is lost by it.

    A table that has rows is defined over them again. Views and empty tables are removed, to be created by the
    schema.

    :arg folder: Of an embedded store that no process has open.
    :arg database: Name of the schema's database.
    :arg schema: What its tables and views are.
    :returns: Whether anything was repaired.
    :raises StoreError: If a definition is not one of the schema, or its rows cannot be told.
    """
    damaged = damaged_files(folder, database, schema)
    removed = []
    for file in damaged:
        name = file.stem
        ours = file.parent == folder / "metadata" / database
        link = folder / "data" / database / name
        if file == folder / "metadata" / f"{database}.sql" and file.with_suffix("").is_symlink():
            _define(file, file.with_suffix(""), "DATABASE", "\nENGINE = Atomic")
        elif ours and name in schema.tables and any(link.glob(_PARTS)):
            _define(file, link, "TABLE", _definition(schema.tables[name]))
        elif (ours and name in schema.objects) or file == folder / "metadata" / f"{database}.sql":
            removed.append(file)
        else:
            msg = (
                f"the definition of {name} in {file} is empty, as after a full disk, and it is not one of "
                "pairflow's: restore the file from a copy, or delete it to go on without"
            )
            raise StoreError(msg)
    for file in removed:
        if file.stem in schema.tables:
            _check_no_rows_are_left(folder, file)
        file.unlink()
    for file in damaged:
        log.warning("a definition that a full disk had cut off was made again", name=file.stem)
    return bool(damaged)


def _is_whole(text: str) -> bool:
    """Tell whether a definition ends as chDB ends it, and all its brackets are closed."""
    depth = sum({"(": 1, ")": -1}[mark] for _, mark in marks(text) if mark != ",")
    return text.endswith("\n") and depth == 0 and re.search(r"^(ENGINE = |AS )", text, re.M) is not None


def _definition(table: Table) -> str:
    columns = (column.declaration for column in table.columns)
    checks = (f"CONSTRAINT {name} CHECK {check}" for name, check in table.constraints.items())
    return f"\n({', '.join((*columns, *checks))})\n{table.options}"


def _define(file: Path, link: Path, kind: str, definition: str) -> None:
    """Write a definition over the folder that a link of chDB points to, whose name is the id."""
    text = f"ATTACH {kind} _ UUID '{link.readlink().name}'{definition}\n"
    part = file.with_suffix(".part")
    with part.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def _check_no_rows_are_left(folder: Path, file: Path) -> None:
    """Refuse to take a table for empty while there are rows that belong to no table."""
    files = [*(folder / "metadata").glob("*/*.sql"), *(folder / "metadata_dropped").glob("*.sql")]
    definitions = [each.read_text() for each in files]
    known = {found for text in definitions for found in re.findall(r"UUID '([\w-]+)'", text)}
    for part in (folder / "store").glob(f"*/*/{_PARTS}"):
        rows = part.parents[1]
        if rows.name not in known:
            msg = (
                f"the definition in {file} is empty or cut off, as after a full disk, and its rows may be "
                f"those in {rows}, which belong to no table: restore the file from a copy, or move that "
                "folder away to go on without them"
            )
            raise StoreError(msg)
