"""The file of an evaluation: what stands in it or beside it is refused unless it is ours."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from kilograd import limits
from kilograd.errors import InputError
from kilograd.study.store import _connected, key_of, opened
from kilograd.study.work import Row

RESULTS = "evaluation.sqlite"
ROW = Row("birds", "small", "last:2", 0, 4, 0.25, 0.5, 1000, 2000, 30, 1.5)
ROWS = [replace(ROW, episode=e) for e in range(3)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three rows, closed."""
    file = tmp_path / "run" / RESULTS
    with opened(file) as store:
        store.agree({"--lr": "0.5"}, {})
        for row in ROWS:
            store.add(row)
    return file


def read(file: Path) -> list[Row]:
    with opened(file) as store:
        store.agree({"--lr": "0.5"}, {})
        return list(store.rows().values())


def refused(file: Path, *said: str) -> None:
    """It is one line that names the file, and comes at once."""
    begin = time.monotonic()
    with pytest.raises(InputError) as e:
        read(file)
    assert time.monotonic() - begin < 5
    message = str(e.value)
    assert message.startswith(f"out {file.parent}: ")
    assert "\n" not in message
    assert all(part in message for part in said), message


def changed(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as sql, sql:
        for statement in statements:
            sql.execute(statement)


def test_what_is_stored_is_there_again(file: Path) -> None:
    assert read(file) == ROWS
    assert sorted(p.name for p in file.parent.iterdir()) == [RESULTS]


# ---- beside it ----


def put(path: Path, kind: str) -> None:
    """Put something of a kind at a path where nothing is."""
    match kind:
        case "empty":
            path.touch()
        case "link":
            (path.parent.parent / "victim").write_text("precious")
            path.symlink_to(path.parent.parent / "victim")
        case "broken link":
            path.symlink_to(path.parent.parent / "nothing")
        case "hard link":
            (path.parent.parent / "victim").write_text("precious")
            path.hardlink_to(path.parent.parent / "victim")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as s, pytest.MonkeyPatch.context() as patch:
                patch.chdir(path.parent)  # the name of a socket is short
                s.bind(path.name)
        case _:
            path.mkdir()


STRANGE = ["link", "broken link", "hard link", "pipe", "socket", "folder"]


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_what_is_no_file_of_ours_is_not_touched(file: Path, suffix: str, kind: str) -> None:
    companion = Path(f"{file}{suffix}")
    put(companion, kind)
    before = companion.lstat()
    refused(file, companion.name)
    after = companion.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    victim = file.parent.parent / "victim"
    assert not victim.exists() or victim.read_text() == "precious"
    assert not (file.parent.parent / "nothing").exists()


@pytest.mark.parametrize("kind", STRANGE)
def test_nor_the_database_itself(file: Path, kind: str) -> None:
    file.unlink()
    put(file, kind)
    refused(file, RESULTS)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_an_empty_companion_is_as_none(file: Path, suffix: str) -> None:
    put(Path(f"{file}{suffix}"), "empty")
    assert read(file) == ROWS


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_file_that_is_too_large_is_not_read(file: Path, suffix: str) -> None:
    with Path(f"{file}{suffix}").open("ab") as large:
        large.truncate(limits.RESULT_BYTES + 1)
    refused(file, f"{RESULTS}{suffix}", "is larger than 536,870,912 bytes")


def hot_journal(file: Path, victim: Path) -> None:
    """Write a journal that SQLite rolls back, and with it deletes the file that it names."""
    with closing(sqlite3.connect(file)) as sql:
        sql.execute("PRAGMA journal_mode = DELETE")
    data = file.read_bytes()
    (size,) = struct.unpack(">H", data[16:18])
    magic, page = bytes.fromhex("d9d505f920a163d7"), data[:size]
    header = magic + struct.pack(">IIIII", 1, 0, len(data) // size, 512, size)
    record = struct.pack(">I", 1) + page + struct.pack(">I", sum(page[size - 200 : 0 : -200]))
    name = str(victim).encode()
    end = struct.pack(">I", 0x40000000 // size + 1) + name
    end += struct.pack(">II", len(name), sum(name)) + magic
    Path(f"{file}-journal").write_bytes(header.ljust(512, b"\0") + record + end)


def test_a_journal_that_names_a_file_does_not_delete_it(file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "thesis.tex"
    victim.write_text("precious")
    hot_journal(file, victim)
    shutil.copytree(file.parent, tmp_path / "copy")
    refused(file, f"{RESULTS}-journal", "which Kilograd never writes")
    assert victim.read_text() == "precious"
    with closing(sqlite3.connect(tmp_path / "copy" / RESULTS)) as sql:
        sql.execute("SELECT * FROM sqlite_master").fetchall()
    assert not victim.exists(), "SQLite alone does: so the journal is a real one"


# ---- in it ----

SPOILT = {
    "a view": ("CREATE VIEW more AS SELECT 1",),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END",),
    "one more column": ("ALTER TABLE rows ADD COLUMN more",),
    "one more table": ("CREATE TABLE more (x)",),
    "statistics": ("ANALYZE",),
    "an index": ("CREATE INDEX more ON rows (ways)",),
    "an index of an expression": ("CREATE INDEX more ON rows (length(zeroblob(ways * 1)))",),
    "an index of some": ("CREATE INDEX more ON rows (ways) WHERE ways > 3",),
    "no key": ("CREATE TABLE new AS SELECT * FROM rows", "DROP TABLE rows"),
    "no table": ("DROP TABLE rows",),
}
MADE = {
    "a generated rowid": ("seconds NOT NULL", "seconds, rowid AS (zeroblob(900000000))"),
    "a generated column": ("seconds NOT NULL", "seconds AS (hex(zeroblob(400000000)))"),
    "ON CONFLICT": ("episode))", "episode) ON CONFLICT REPLACE)"),
    "a column that replaces": ("ways NOT NULL", "ways NOT NULL ON CONFLICT REPLACE"),
    "a check": ("ways NOT NULL", "ways NOT NULL CHECK (length(zeroblob(900000000)))"),
    "a default": ("ways NOT NULL", "ways NOT NULL DEFAULT (zeroblob(900000000))"),
    "other letters": ("CREATE TABLE rows (data", "CREATE TABLE rows ( data"),
    "a collation": ("model NOT NULL", "model NOT NULL COLLATE NOCASE"),
    "no rowid": ("episode))", "episode)) WITHOUT ROWID"),
    "strict": ("seconds NOT NULL", "seconds REAL NOT NULL"),
    "a long statement": ("ways NOT NULL", f"ways NOT NULL /*{'x' * 20_000_000}*/"),
}


def made(file: Path, old: str, new: str) -> None:
    """Make the table of rows with another statement."""
    with closing(sqlite3.connect(file)) as sql, sql:
        (statement,) = sql.execute("SELECT sql FROM sqlite_master WHERE name = 'rows'").fetchone()
        assert old in statement
        sql.execute("DROP TABLE rows")
        sql.execute(statement.replace(old, new))


@pytest.mark.parametrize("name", SPOILT)
def test_other_tables_are_refused(file: Path, name: str) -> None:
    changed(file, *SPOILT[name])
    refused(file, RESULTS, "was not made by this version of Kilograd, or is damaged")


def test_a_file_without_tables_is_refused(file: Path) -> None:
    file.write_bytes(b"")
    refused(file, "was not made by this version of Kilograd")


@pytest.mark.parametrize("name", MADE)
def test_tables_that_were_made_otherwise_are_refused(file: Path, name: str) -> None:
    made(file, *MADE[name])
    refused(file, RESULTS)


def many_tables(file: Path) -> None:
    changed(
        file,
        "PRAGMA writable_schema = ON",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
        "INSERT INTO sqlite_master SELECT 'table', 't' || i, 't' || i, 2, "
        "'CREATE TABLE t' || i || ' (x)' FROM n",
    )


def a_large_value(file: Path) -> None:
    changed(file, "UPDATE rows SET data = zeroblob(100000000) WHERE rowid = 2")


def a_large_setting(file: Path) -> None:
    changed(file, "UPDATE settings SET value = zeroblob(100000000)")


def many_settings(file: Path) -> None:
    changed(
        file,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500000) "
        "INSERT INTO settings SELECT 'x' || i, '0' FROM n",
    )


def generated(file: Path) -> None:
    made(file, *MADE["a generated rowid"])


def memory(file: Path) -> None:
    """End with 0 where a file is refused within 100 MB more than there are."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
    try:
        read(file)
    except InputError:
        os._exit(0)
    os._exit(1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "spoil", [generated, many_tables, a_large_value, a_large_setting, many_settings]
)
def test_large_things_take_neither_memory_nor_time(
    file: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(file)
    process = multiprocessing.get_context("fork").Process(target=memory, args=(file,))
    process.start()
    process.join(20)
    process.kill()
    process.join()
    assert process.exitcode == 0
    refused(file, RESULTS)


def test_more_rows_than_the_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESULT_ROWS", 2)
    refused(file, "would have more than 2 rows")


def test_a_row_that_stands_twice(file: Path) -> None:
    """As it can in a damaged file: in the table, and not in the index of its key."""
    of = "name LIKE '%autoindex_rows%'"
    with closing(sqlite3.connect(file)) as sql:
        index = sql.execute(f"SELECT * FROM sqlite_master WHERE {of}").fetchone()  # noqa: S608
        (table,) = sql.execute("SELECT sql FROM sqlite_master WHERE name = 'rows'").fetchone()
    allow = "PRAGMA writable_schema = ON"
    with closing(sqlite3.connect(file)) as sql, sql:
        sql.execute(allow)
        sql.execute(f"DELETE FROM sqlite_master WHERE {of}")  # noqa: S608
        bare = table.replace(", PRIMARY KEY (data, model, method, episode)", "")
        sql.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'rows'", (bare,))
    changed(file, "INSERT INTO rows SELECT * FROM rows WHERE episode = 1")
    with closing(sqlite3.connect(file)) as sql, sql:
        sql.execute(allow)
        sql.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'rows'", (table,))
        sql.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    refused(file, "row 4 is damaged, it stands there twice")


def test_a_damaged_log_of_writes(file: Path, tmp_path: Path) -> None:
    """Whatever byte is damaged: what is whole is read, or a line says that it is not."""
    with closing(sqlite3.connect(file)) as reader, opened(file) as store:
        reader.execute("SELECT * FROM rows").fetchall()
        store.add(replace(ROW, episode=3))
        shutil.copytree(file.parent, tmp_path / "killed")
    log = (tmp_path / "killed" / f"{RESULTS}-wal").read_bytes()
    assert log
    found = set()
    for at in range(0, len(log), 331):
        copy = tmp_path / str(at)
        shutil.copytree(tmp_path / "killed", copy)
        damaged = log[:at] + bytes([log[at] ^ 0xFF]) + log[at + 1 :]
        (copy / f"{RESULTS}-wal").write_bytes(damaged)
        with suppress(InputError):
            found.add(len(read(copy / RESULTS)))
    assert found == {3}, "the damaged write is as one that never was"
    assert len(read(tmp_path / "killed" / RESULTS)) == 4


def test_other_tables_in_the_log_of_writes_alone(file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("SELECT * FROM rows").fetchall()
        changed(file, "CREATE VIEW more AS SELECT 1")
        shutil.copytree(file.parent, tmp_path / "killed")
    assert b"VIEW" not in (tmp_path / "killed" / RESULTS).read_bytes()
    refused(tmp_path / "killed" / RESULTS, "its tables are others")


# ---- stopped ----


def endless(home: Path) -> None:
    for i in count():
        with opened(home / str(i) / RESULTS) as store:
            store.add(ROW)


def test_a_file_whose_making_is_killed_leaves_nothing_that_is_refused(tmp_path: Path) -> None:
    rng = random.Random(5)
    for i in range(15):
        home = tmp_path / str(i)
        home.mkdir()
        process = multiprocessing.get_context("fork").Process(target=endless, args=(home,))
        process.start()
        deadline = time.monotonic() + 60
        while not (home / "1").exists():  # it works, on a busy machine too, until it is killed
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.random() * 0.08)
        process.kill()
        process.join()
        for out in home.iterdir():
            assert not (out / f"{RESULTS}-journal").exists()
            with opened(out / RESULTS) as store:
                assert set(store.rows()) <= {key_of(ROW)}


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.usefixtures("alarm")
def test_a_signal_is_heard_in_a_long_query(file: Path) -> None:
    query = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    begin = time.monotonic()
    with (
        closing(_connected(file)) as sql,
        pytest.raises(sqlite3.OperationalError, match="interrupted"),
    ):
        sql.execute(query)
    assert time.monotonic() - begin < 5
