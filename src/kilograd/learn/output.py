"""Folders and files of results: complete or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kilograd.errors import InputError


def check_out(out: Path, mark: str, *, force: bool) -> None:
    """Raise `InputError` if `out` exists and must not be replaced, or cannot be made.

    `mark` is a file that a folder of ours holds: no other folder is ever replaced.
    """
    if out.is_dir() and not force:
        raise InputError(f"--out {out}: exists already; choose another folder or add --force")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).exists():
        raise InputError(
            f"--out {out}: holds something else than results, and --force would delete it; "
            f"choose another folder"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another folder")
    above = next(p for p in out.resolve().parents if p.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise InputError(f"--out {out}: nothing can be written to {above}; choose another folder")


def check_file(out: Path, suffix: str, *, force: bool, option: str = "--out") -> None:
    """Raise `InputError` if `out` exists and must not be replaced, or cannot be written."""
    if out.suffix != suffix:
        raise InputError(f"{option} {out}: must end in {suffix}")
    if out.is_dir():
        raise InputError(f"{option} {out}: is a folder; choose another file")
    if out.exists() and not force:
        raise InputError(f"{option} {out}: exists already; choose another file or add --force")
    if not out.parent.is_dir():
        raise InputError(f"{option} {out}: there is no folder {out.parent}; make it first")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{option} {out}: nothing can be written to {out.parent}; choose another")


def write_file(out: Path, text: str) -> None:
    """Write a whole file or nothing: what was there before stays until all is written.

    Raises `InputError` if the disk refuses.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".kilograd-") as scratch:
            new = Path(scratch, out.name)
            new.write_text(text, encoding="utf-8")
            new.replace(out)
    except OSError as e:
        raise InputError(f"--out {out}: cannot be written ({e})") from e


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to fill; at the end it takes the place of `out`.

    Whatever interrupts leaves nothing half written, and what was there before untouched.

    Raises `InputError` if the disk refuses.
    """
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=".kilograd-", ignore_cleanup_errors=True
        ) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            _replace(out, new, old)
    except OSError as e:
        raise InputError(f"--out {out}: cannot be written ({e})") from e


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Rename `new` to `folder`, and what has that name to `old`; or change nothing."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
