"""Files and folders of ours: complete or not there at all.

What is written is made in a scratch folder beside its place, put on the disk, and then takes its
place by one rename, so that whatever happens leaves the old or the new.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from kilograd.errors import InputError, option
from kilograd.interruption import later

#: What a system says where there is no room for more.
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

Begun = TypeVar("Begun")

_SCRATCH = ".kilograd-scratch-"
_OLD = "old"  # where in a scratch folder lies what has been replaced, under its own name


# ---- before work begins ----


def check_out(out: Path, mark: str, *others: str, force: bool) -> None:
    """Raise `InputError` if the folder `out` exists and must not be replaced, or cannot be made.

    `mark` is a file that a folder of ours holds: no other folder is ever replaced; nor is one that
    holds more than `mark` and `others`, which are patterns of names.
    """
    _check_place(out, "out")
    if out.is_dir() and not force:
        raise InputError(
            f"{option('out')} {out}: exists already; choose another folder or add {option('force')}"
        )
    if out.is_dir() and foreign(out, mark):
        raise InputError(
            f"{option('out')} {out}: holds something else than results, and {option('force')} "
            "would delete it; choose another folder"
        )
    if out.is_dir() and (found := _more_than(out, mark, *others)):
        raise InputError(
            f"{option('out')} {out}: holds {found}, which Kilograd has not written, and "
            f"{option('force')} would delete it; move it, or choose another folder"
        )
    if out.is_dir() and Path.cwd().is_relative_to(out.resolve()):
        raise InputError(
            f"{option('out')} {out}: is where you are, and would be replaced; go elsewhere"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"{option('out')} {out}: is a file; choose another folder")
    _check_writable(out, "out")


def check_file(out: Path, suffix: str, *, force: bool, field: str = "out") -> None:
    """Raise `InputError` if `out` exists and must not be replaced, or cannot be written."""
    _check_place(out, field)
    if out.suffix != suffix:
        raise InputError(f"{option(field)} {out}: must end in {suffix}")
    if out.is_dir():
        raise InputError(f"{option(field)} {out}: is a folder; choose another file")
    if out.exists() and not out.is_file():
        raise InputError(f"{option(field)} {out}: is no ordinary file; choose another")
    if out.exists() and not force:
        raise InputError(
            f"{option(field)} {out}: exists already; choose another file or add {option('force')}"
        )
    if not out.parent.is_dir():
        raise InputError(f"{option(field)} {out}: there is no folder {out.parent}; make it first")
    _check_writable(out, field)


def check_apart(out: Path, data: Path, field: str = "out") -> None:
    """Raise `InputError` if `out` would become a part of a folder of data, or replace it."""
    place, given = out.resolve(), data.resolve()
    if given.is_dir() and place.is_relative_to(given):
        raise InputError(
            f"{option(field)} {out}: lies in {data}, and would be taken for data; choose another "
            "place"
        )
    if given.is_relative_to(place):
        raise InputError(f"{option(field)} {out}: holds the data, {data}; choose another place")


def check_folder(out: Path, mark: str) -> None:
    """See that files can come one by one into a folder that is new, or holds `mark`.

    Raises `InputError` where it cannot be written, or holds something else.
    """
    _check_place(out, "out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{option('out')} {out}: is a file; choose another folder")
    if out.is_dir() and foreign(out, mark):
        raise InputError(f"{option('out')} {out}: holds something else; choose another folder")
    _check_writable(out / mark, "out")


def make_folder(out: Path, mark: str) -> None:
    """Make a folder that `check_folder` lets pass.  Raises `InputError` as that does."""
    check_folder(out, mark)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{option('out')} {out}: cannot be written ({e.strerror or e})") from e


@dataclass(frozen=True)
class Provenance:
    """What results depend on, under the names that messages use.

    `settings`: what can be read: options (`option("lr")`), versions, short descriptions.
    `digests`: of data sets, networks and files.
    """

    settings: Mapping[str, object]
    digests: Mapping[str, str]


def claim(
    out: Path, mark: str, now: Provenance, read: Callable[[Path], tuple[Begun, Provenance]]
) -> Begun | None:
    """Return what was begun in a folder that files come into one by one; None: nothing yet.

    `read`: what the file `mark` holds, and what that depends on.

    Raises `InputError` as `check_folder`, `read` and `check_same` do.
    """
    check_folder(out, mark)
    if not (out / mark).exists():
        return None
    begun, before = read(out / mark)
    check_same(out, before, now)
    return begun


def check_same(out: Path, before: Provenance, now: Provenance) -> None:
    """Raise `InputError`, which names a difference, where results in `out` depend on other things.

    >>> before, now = ({"rate": 1, "fast": fast} for fast in (True, False))
    >>> check_same(Path("out"), Provenance(before, {}), Provenance(now, {}))
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: out out: was begun with fast, and this is without fast; \
choose another folder, or go on as before
    """
    advice = "choose another folder, or go on as before"
    for name in {**now.settings, **before.settings}:
        begun, asked = (_with(name, p.settings.get(name)) for p in (before, now))
        if begun != asked:
            raise InputError(
                f"{option('out')} {out}: was begun {begun}, and this is {asked}; {advice}"
            )
    for name in {**now.digests, **before.digests}:
        if before.digests.get(name) != now.digests.get(name):
            raise InputError(
                f"{option('out')} {out}: {name} has changed since it was begun; {advice}"
            )


def _with(name: str, value: object) -> str:
    if value is None or value is False:
        return f"without {name}"
    return f"with {name}" if value is True else f"with {name} {value}"


def foreign(out: Path, mark: str) -> bool:
    """Say whether a folder holds files, and `mark` is not among them."""
    try:
        found = {p.name for p in out.iterdir() if not p.name.startswith(_SCRATCH)}
    except OSError as e:
        raise InputError(
            f"{option('out')} {out}: cannot be read ({e.strerror}); choose another"
        ) from e
    return bool(found) and mark not in found


def _more_than(out: Path, *patterns: str) -> str | None:
    """Return the name of something in a folder that no pattern is of."""
    names = sorted(p.name for p in out.iterdir())
    known = (f"{_SCRATCH}*", *patterns)
    return next((n for n in names if not any(fnmatchcase(n, p) for p in known)), None)


def _check_place(out: Path, field: str) -> None:
    """Raise `InputError` for a path that can be no place for a result, whatever is there."""
    if str(out).startswith("-"):  # the name was forgotten, and the next option was taken for it
        raise InputError(f"{option(field)} {out}: begins like an option; give another name")
    try:
        status = out.absolute().lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as e:  # a name too long, a loop of links, a NUL
        why = getattr(e, "strerror", None) or e
        raise InputError(f"{option(field)} {out}: cannot be used ({why}); give another path") from e
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{option(field)} {out}: is a link; give the place that it leads to")


def _check_writable(out: Path, field: str) -> None:
    """Try to write where `out` will be: permissions alone do not say that it works."""
    above = next(p for p in out.resolve().parents if p.exists())
    try:
        longest = os.pathconf(above, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in out.resolve().parts):
            raise InputError(f"{option(field)} {out}: the name is too long; give a shorter one")
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as e:
        raise InputError(
            f"{option(field)} {out}: nothing can be written to {above} ({e.strerror}); choose "
            "another"
        ) from e


# ---- writing ----


def write_file(out: Path, content: str | bytes, field: str = "out") -> None:
    """Write a whole file or nothing: what was there before stays until all is on the disk.

    Raises `InputError` if the disk refuses.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with scratch_folder(out.parent) as scratch:
            new = scratch / "new"
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(out)
        sync(out.parent)
    except OSError as e:
        raise InputError(f"{option(field)} {out}: cannot be written ({e.strerror or e})") from e


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to fill; at the end it takes the place of `out`.

    Whatever interrupts leaves nothing half written, and what was there before untouched.

    Raises `InputError` if the disk refuses.
    """
    try:
        with filled_folder(out) as new:
            yield new
    except OSError as e:
        raise InputError(f"{option('out')} {out}: cannot be written ({e.strerror or e})") from e


@contextmanager
def filled_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to fill, as `whole_folder` does.  Raises `OSError` if the disk refuses."""
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(place.parent) as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        put_folder(new, place, scratch)


def put_folder(new: Path, out: Path, scratch: Path) -> None:
    """Put a folder on the disk and in the place of `out`; what was there is left in `scratch`.

    Raises `OSError`; `out` is then the old or the new one.
    """
    for folder, _, names in os.walk(new, topdown=False):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    if not os.path.lexists(out):
        new.rename(out)
    elif not _exchange(new, out):
        _replace(new, out, scratch / _OLD)
    sync(out.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return libc.renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _replace(new: Path, out: Path, aside: Path) -> None:
    """Move `out` aside and `new` into its place, or change nothing.

    A process that is killed in between leaves no `out`; the next one that writes to the same
    folder puts it back.
    """
    aside.mkdir()
    old = aside / out.name
    with later():
        try:
            out.rename(old)
            new.rename(out)
        except BaseException:
            if old.exists() and not out.exists():
                old.rename(out)
            raise


def sync(path: Path) -> None:
    """Wait until a file is on the disk; or a folder: the names in it.  Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- scratch folders ----


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` that only we can read; it is removed at the end.

    It is locked while it is used.  One that is not was left by a process that was killed: the
    first call of a process removes those.

    Raises `OSError`.
    """
    _sweep(str(parent.absolute()))
    made: list[tuple[Path, int]] = []
    try:
        with later():
            made.append(_locked(parent))
        yield made[0][0]
    finally:
        with later():
            for scratch, lock in made:
                shutil.rmtree(scratch, ignore_errors=True)
                os.close(lock)


def _locked(parent: Path) -> tuple[Path, int]:
    """Make a scratch folder, and lock it before another process takes it for abandoned."""
    while True:
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=_SCRATCH))
        try:
            lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except OSError:
            scratch.rmdir()
            raise
        with suppress(OSError):  # where nothing can be locked, nothing is taken for abandoned
            fcntl.flock(lock, fcntl.LOCK_EX)
        if scratch.exists():
            return scratch, lock
        os.close(lock)


@functools.cache
def _sweep(parent: str) -> None:
    """Remove scratch folders whose processes are gone, once for each folder."""
    with suppress(OSError):
        for scratch in Path(parent).glob(f"{_SCRATCH}*"):
            with suppress(OSError):
                _remove_abandoned(scratch)


def _remove_abandoned(scratch: Path) -> None:
    """Remove a scratch folder of ours that nobody has locked; put back what lay aside in it."""
    lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for old in (scratch / _OLD).glob("*"):
            if not os.path.lexists(scratch.parent / old.name):
                old.rename(scratch.parent / old.name)
        shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(lock)
