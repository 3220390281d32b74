"""The rows of an evaluation in a file: SQLite, which acts on whatever stands in and beside it.

So what stands there is looked at first.  docs/decisions/0024-sqlite.md says why.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from kilograd import limits
from kilograd.errors import InputError, field_of, option
from kilograd.output import Provenance, check_same, make_folder, scratch_folder, sync
from kilograd.reading import CHECKSUM, checksum, parse_json, typed
from kilograd.study.work import Key, Row

_NAMES = [f.name for f in fields(Row)]
_LIST = "accuracy_by_pass"
"""The column that holds JSON: SQLite has no lists."""
_KEY = ", ".join(f.name for f in fields(Key))
_COLUMNS = ", ".join(f"{name} NOT NULL" for name in (*_NAMES, CHECKSUM))
_TABLES = {
    "settings": "CREATE TABLE settings (name PRIMARY KEY, value)",
    "rows": f"CREATE TABLE rows ({_COLUMNS}, PRIMARY KEY ({_KEY}))",
}
"""The statement that makes each table: a file has these, to the letter, and nothing else."""

SIZE_OF = "size of network "
"""In front of a network's name: the side of its images in pixels, which a person can read."""

_STEPS = 1000
"""Instructions of SQLite after which it lets Python look whether a signal came."""
_OPENING = 10
"""So many times it may do so until the schema is read: ours takes 100 instructions."""


_Share = Annotated[float, Meta(ge=0, le=1)]


class _Row(Struct, frozen=True):
    """A row as it is stored, with the range of each number."""

    data: str
    model: str
    method: str
    episode: Annotated[int, Meta(ge=0, lt=limits.EPISODES)]
    ways: Annotated[int, Meta(ge=1, le=limits.WAYS)]
    accuracy_before: _Share
    accuracy_after: _Share
    sram_bytes: Annotated[int, Meta(ge=0)]
    backward_macs: Annotated[int, Meta(ge=0)]
    learned_parameters: Annotated[int, Meta(ge=0)]
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    accuracy_by_pass: Annotated[tuple[_Share, ...], Meta(max_length=limits.TESTED_PASSES)]


class Store:
    """The rows of an evaluation, each with its checksum; one process at a time writes."""

    def __init__(self, file: Path, connection: sqlite3.Connection) -> None:
        """Take a connection to a file that has our tables."""
        self._out, self._sql = file.parent, connection
        self._where = f"{option('out')} {file.parent}: {file.name}"

    def agree(self, now: Mapping[str, str], defaults: Mapping[str, str]) -> None:
        """Store the settings, by name; raise `InputError` where a row was made with others.

        `defaults`: of options, which a version that made the rows may not have known.
        """
        with self._sql:
            if not self.rows():
                self._sql.execute("DELETE FROM settings")
            stored = self._settings()
            if stored:
                stored = {**defaults, **stored}
            known = {name: stored.get(name, value) for name, value in now.items()}
            check_same(self._out, _provenance(known), _provenance(now))
            new = [(name, value) for name, value in now.items() if name not in stored]
            self._sql.executemany("INSERT INTO settings VALUES (?, ?)", new)

    def rows(self) -> dict[Key, Row]:
        """Return what is done; raises `InputError` for a row that is not as it was written."""
        columns = ", ".join((*_NAMES, CHECKSUM))
        found = self._sql.execute(f"SELECT rowid, {columns} FROM rows")  # noqa: S608 our own names
        done: dict[Key, Row] = {}
        for number, *values, stored in found:
            self.check_room(len(done) + 1)
            where = f"{self._where}: row {number} is damaged"
            cells = dict(zip(_NAMES, values, strict=True))
            if isinstance(text := cells[_LIST], str):
                cells[_LIST] = parse_json(text, Any, f"{where}: {_LIST}")
            row = Row(**structs.asdict(typed(cells, _Row, where)))
            if stored != checksum(asdict(row)):
                raise InputError(
                    f"{where}, its checksum is another; delete it, and it will be measured again"
                )
            if key_of(row) in done:  # the file contradicts its own index
                raise InputError(f"{where}, it stands there twice; choose another folder")
            done[key_of(row)] = row
        return done

    def check_room(self, rows: int) -> None:
        """Raise `InputError` for more rows than a file may have."""
        if rows > limits.RESULT_ROWS:
            raise InputError(
                f"{self._where}: would have more than {limits.RESULT_ROWS:,} rows, the most that "
                f"are read; choose another folder, or fewer episodes"
            )

    def _settings(self) -> dict[str, str]:
        """Return what is stored of options and inputs: JSON of options, digests of inputs."""
        query = self._sql.execute("SELECT name, value FROM settings")
        found = query.fetchmany(limits.RESULT_SETTINGS + 1)
        where = f"{self._where}: the settings are damaged"
        if len(found) > limits.RESULT_SETTINGS:
            raise InputError(
                f"{where}: more than {limits.RESULT_SETTINGS:,}; choose another folder"
            )
        stored = dict(typed(found, list[tuple[str, str]], where))
        for name, value in stored.items():
            if name.startswith("--"):
                parse_json(value, Any, f"{where}, {name}")
        return stored

    def add(self, row: Row) -> None:
        """Store a row, for good: it is on the disk when this returns.

        Raises `InputError` if the disk refuses.
        """
        cells = asdict(row)
        cells[_LIST] = json.dumps(row.accuracy_by_pass)
        values = (*cells.values(), checksum(asdict(row)))
        marks = ", ".join("?" for _ in values)
        try:
            with self._sql:
                self._sql.execute(f"INSERT INTO rows VALUES ({marks})", values)  # noqa: S608
        except sqlite3.OperationalError as e:
            raise InputError(
                f"{option('out')} {self._out}: a row cannot be stored ({e}); those before it are "
                "safe: make room, and the same command goes on"
            ) from e


def key_of(row: Row) -> Key:
    """Return what tells a row from all others."""
    return Key(row.data, row.model, row.method, row.episode)


@contextmanager
def opened(file: Path) -> Iterator[Store]:
    """Open the file of an evaluation, or begin one, in a folder that holds nothing else.

    Raises `InputError` for a folder that holds something else, that cannot be written, or that
    another process writes to; and for a file that is not as we write it, or has something beside
    it that we do not.
    """
    out = file.parent
    make_folder(out, file.name)
    try:
        folder = os.open(out, os.O_RDONLY)
    except OSError as e:
        raise InputError(f"{option('out')} {out}: cannot be written ({e})") from e
    try:
        # The system drops the lock when the process ends, however it ends.
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(
                f"{option('out')} {out}: another evaluation is writing there; wait"
            ) from e
        except OSError as e:
            raise InputError(
                f"{option('out')} {out}: cannot be locked ({e}); choose a local folder"
            ) from e
        try:
            _check_files(file)
            if not os.path.lexists(file):
                _begin(file)
            with closing(_connected(file)) as connection:
                yield Store(file, connection)
        except sqlite3.Error as e:
            raise InputError(f"{option('out')} {out}: {file.name} cannot be used ({e})") from e
    finally:
        os.close(folder)


def _check_files(file: Path) -> None:
    """Look at a database and what SQLite would read beside it, before SQLite does.

    A rollback journal names files that SQLite would delete; ours never has one.
    """
    if os.path.lexists(journal := f"{file}-journal"):
        raise InputError(
            f"{option('out')} {file.parent}: holds {Path(journal).name}, which Kilograd never "
            "writes and SQLite would act on; choose another folder"
        )
    for path in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        where = f"{option('out')} {file.parent}: {path.name}"
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{where} is no regular file; choose another folder")
        if about.st_nlink > 1:
            raise InputError(f"{where} has other names (hard links); give a copy of the folder")
        if about.st_size > limits.RESULT_BYTES:
            raise InputError(
                f"{where} is larger than {limits.RESULT_BYTES:,} bytes, the most that is read; "
                f"choose another folder"
            )


def _begin(file: Path) -> None:
    """Make a database with our tables; it takes its place whole, so that no kill leaves a part.

    To make a new file one with a write-ahead log takes a rollback journal, the only one ever.
    """
    try:
        with scratch_folder(file.parent) as scratch:
            new = scratch / file.name
            with closing(sqlite3.connect(new)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    for statement in _TABLES.values():
                        connection.execute(statement)
            sync(new)
            new.replace(file)
        sync(file.parent)
    except OSError as e:
        raise InputError(
            f"{option('out')} {file.parent}: cannot be written ({e.strerror or e})"
        ) from e


def _connected(file: Path) -> sqlite3.Connection:
    """Open a database with our tables and nothing else.

    Raises `InputError` for any other, and a `sqlite3.Error` for a damaged one.
    """
    connection = sqlite3.connect(file)
    try:
        # No value, no statement of the schema and no row is longer: a function may promise 1 GB.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.RESULT_VALUE_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        looks = iter(range(_OPENING))
        connection.set_progress_handler(lambda: next(looks, None) is None, _STEPS)
        _check_schema(file, connection)
        # That Python runs between instructions of SQLite is enough for Ctrl-C to be heard.
        connection.set_progress_handler(lambda: False, _STEPS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException as e:
        connection.close()
        if isinstance(e, UnicodeDecodeError):  # of names in a damaged schema
            raise sqlite3.DatabaseError(f"its schema is no text: {e}") from e
        raise
    return connection


def _check_schema(file: Path, connection: sqlite3.Connection) -> None:
    """Raise `InputError` where anything but our tables, and the indices of their keys, is there."""
    known: set[tuple[str | None, ...]]
    known = {("table", name, name, sql) for name, sql in _TABLES.items()}
    known |= {("index", f"sqlite_autoindex_{name}_1", name, None) for name in _TABLES}
    query = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
    found = query.fetchmany(len(known) + 1)
    if len(found) != len(known) or set(found) != known:
        raise InputError(
            f"{option('out')} {file.parent}: {file.name} was not made by this version of Kilograd, "
            "or is damaged: its tables are others; choose another folder"
        )


def _provenance(settings: Mapping[str, str]) -> Provenance:
    """Return what is stored under names that are options, as they are typed, or inputs."""
    names = {name: option(known) for name in settings if (known := field_of(name))}
    said = {called: parse_json(settings[name], Any, name) for name, called in names.items()}
    plain = {k: v for k, v in settings.items() if k == "kilograd" or k.startswith(SIZE_OF)}
    digests = {k: v for k, v in settings.items() if k not in names and k not in plain}
    return Provenance({**said, **plain}, digests)
