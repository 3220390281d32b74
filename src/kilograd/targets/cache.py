"""What was compiled, for the next time: nobody else's, and never used damaged.

An entry is a folder whose name says what it was made from.  Beside the files lies `sums`, which
says what is in them.  An entry whose files are not all ours, or not what `sums` says, is made anew
before anything in it is run.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import multiprocessing
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kilograd.errors import InputError
from kilograd.output import FULL, put_folder, scratch_folder

_log = logging.getLogger(__name__)

Make = Callable[[Path], None]
"""Fills an empty folder with files."""

_SUMS = "sums"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DAYS = 90  # an entry that nobody has used for so long is dropped ...
_BYTES = 2 << 30  # ... and the oldest, where all are larger
#: Our entries, and what earlier versions left: a user's folder may hold other things.
_OURS = re.compile(
    r"(counter|firmware|model|module|runtime)-[0-9a-f]{32}(\.elf|\.wasm)?|\.(build|passing)-\w{8}"
)


def cached(name: str, make: Make) -> Path:
    """Return the folder of an entry: found undamaged, or made now.

    Where it cannot be kept it is made for this process alone.  Raises `InputError` where it
    cannot be made at all, and what `make` raises.
    """
    if found := kept(name):
        _log.debug("compiled before: %s", found)
        return found
    try:
        return _made(cache_folder(), name, make)
    except OSError as e:
        return _made_for_now(e, name, make)


def kept(name: str) -> Path | None:
    """Return the folder of an entry that is there, ours and undamaged."""
    entry = cache_folder() / name
    if not _is_whole(entry):
        return None
    with suppress(OSError):
        os.utime(entry / _SUMS)  # says when it was last used
    return entry


@contextmanager
def passing(make: Make) -> Iterator[Path]:
    """Yield a folder that `make` has filled, and remove it at the end."""
    with workplace() as folder:
        make(folder)
        yield folder


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield an empty folder to work in, which is removed at the end.

    Raises `InputError` where the disk is full.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(cache_folder()))
        except OSError as e:
            folder = stack.enter_context(scratch_folder(_temporary(_why(e))))
        try:
            yield folder
        except OSError as e:
            if e.errno in FULL:
                raise _no_room(folder, e) from e
            raise


def cache_folder() -> Path:
    """Return an existing folder for entries, in which nobody else can write.

    It is $KILOGRAD_CACHE, or `kilograd` in the user's cache folder; a folder of ours in it if it
    is shared.  Where neither can be, it is one that goes when this process ends, and a line says
    why.  Raises `InputError` where there is none at all.
    """
    if given := os.environ.get("KILOGRAD_CACHE"):
        asked = Path(given)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        asked = Path(base, "kilograd")
    try:
        return _private(asked)
    except (OSError, ValueError) as e:
        return _temporary(_why(e))


def _private(folder: Path) -> Path:
    """Return a folder, or one of ours in it.  Raises `OSError` where others could change it."""
    folder = folder.absolute()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # another process may be as quick
    folder = folder.resolve()
    for above in folder.parents:
        if others := _others_move(above.stat()):
            raise PermissionError(f"{folder}: {others} may rename what is in {above}")
    found = folder.stat()
    ours = found.st_uid == os.geteuid()
    if ours and not found.st_mode & _OTHERS_WRITE:
        return folder
    if not (found.st_mode & stat.S_ISVTX and (ours or found.st_uid == 0)):
        raise PermissionError(f"{folder}: others may write to it")
    own = folder / f"kilograd-{os.geteuid()}"
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    if not _is_ours(own.lstat(), stat.S_IFDIR):
        raise PermissionError(f"{own}: belongs to somebody else")
    return own


@functools.cache
def _temporary(why: str) -> Path:
    """Return a folder that goes when this process ends, and say why the cache is not used."""
    folder = _until_exit()
    if multiprocessing.parent_process() is None:
        print(  # noqa: T201 there is no other way to the user from here
            f"compiled programs are not kept: {why}; set KILOGRAD_CACHE to a folder of your own",
            file=sys.stderr,
        )
    return folder


@functools.cache
def _until_exit() -> Path:
    stack = ExitStack()
    try:
        folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir())))
    except OSError as e:
        raise InputError(
            f"compiled programs need a place ({e}); set KILOGRAD_CACHE to a folder of your own"
        ) from e
    atexit.register(stack.close)
    os.environ["KILOGRAD_CACHE"] = str(folder)  # for the rest of this process, and its workers
    return folder


# ---- entries ----


def _is_whole(entry: Path) -> bool:
    """Say whether an entry is there, ours, and as it was made."""
    try:
        return _is_ours(entry.lstat(), stat.S_IFDIR) and _read(entry / _SUMS) == _sums(entry)
    except OSError:
        return False


def _sums(entry: Path) -> bytes:
    """Return what `sums` must say.  Raises `OSError` for anything but files of ours."""
    files = sorted(p for p in entry.iterdir() if p.name != _SUMS)
    lines = [f"{hashlib.sha256(_read(p)).hexdigest()}  {p.name}" for p in files]
    return "\n".join([entry.name, *lines, ""]).encode()


def _read(path: Path) -> bytes:
    """Read a file of ours.  Raises `OSError` for any other, for links and for what is no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not _is_ours(os.fstat(descriptor), stat.S_IFREG):
            raise PermissionError(f"{path}: belongs to somebody else")
        return file.read()


def _others_move(above: os.stat_result) -> str | None:
    """Say who else, but root, could put another folder in the place of one that lies in `above`."""
    if above.st_uid not in {0, os.geteuid()}:
        return "its owner"
    if above.st_mode & stat.S_ISVTX:
        return None
    if above.st_mode & stat.S_IWOTH:
        return "everybody"
    shared = above.st_mode & stat.S_IWGRP and above.st_gid not in {0, os.getegid()}
    return "its group" if shared else None


def _is_ours(status: os.stat_result, kind: int) -> bool:
    """Say whether something is of a kind, belongs to us, and nobody else can write to it."""
    mode = status.st_mode
    return stat.S_IFMT(mode) == kind and status.st_uid == os.geteuid() and not mode & _OTHERS_WRITE


def _made(root: Path, name: str, make: Make) -> Path:
    """Make an entry.  Raises `OSError` where it cannot be written, or what is there not removed."""
    _drop_old(str(root))
    entry = root / name
    with scratch_folder(root) as scratch:
        new = scratch / name
        new.mkdir(mode=0o700)
        make(new)
        for file in new.iterdir():
            file.chmod(0o700)  # whatever the umask; qemu-user wants firmware to be executable
        (new / _SUMS).write_bytes(_sums(new))
        (new / _SUMS).chmod(0o600)
        try:
            put_folder(new, entry, scratch)
        except OSError:
            if not _is_whole(entry):  # else another process was quicker
                raise
    _log.debug("compiled: %s", entry)
    return entry


def _made_for_now(error: OSError, name: str, make: Make) -> Path:
    try:
        return _made(_temporary(_why(error)), name, make)
    except OSError as e:
        raise _no_room(_until_exit(), e) from e


def _why(error: OSError | ValueError) -> str:
    """Return what is wrong with a cache, and where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _no_room(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"compiled programs cannot be written to {folder} ({error.strerror}); make room, or set "
        f"KILOGRAD_CACHE to another folder"
    )


@functools.cache
def _drop_old(root: str) -> None:
    """Drop entries that were not used for long, and the oldest where there are too many."""
    now, total = time.time(), 0
    with suppress(OSError):
        entries = [Path(e.path) for e in os.scandir(root) if _OURS.fullmatch(e.name)]
        for used, size, entry in sorted(map(_facts, entries), reverse=True):
            total += size
            if used < now - _DAYS * 86400 or (total > _BYTES and used < now - 86400):
                with suppress(OSError):
                    entry.unlink() if entry.is_file() else shutil.rmtree(entry)


def _facts(entry: Path) -> tuple[float, int, Path]:
    """Return when an entry was last used, and its bytes."""
    found = [p.lstat() for p in (entry, *(entry.glob("*") if entry.is_dir() else ()))]
    return max(s.st_mtime for s in found), sum(s.st_size for s in found), entry
