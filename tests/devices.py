"""Targets by kind, and what their tests need."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kilograd.errors import InputError
from kilograd.targets import TARGETS, Cortex, ElfTarget

ELF = [t for t in TARGETS if isinstance(t, ElfTarget)]
CORTEX = [t for t in TARGETS if isinstance(t, Cortex)]

needs_emulator = pytest.mark.skipif(
    not all(
        map(importlib.util.find_spec, ("ziglang", "unicorn", "elftools", "capstone", "wasmtime"))
    ),
    reason="needs pip install ziglang unicorn pyelftools capstone wasmtime",
)


@contextmanager
def skipped_without_tools() -> Iterator[None]:
    """Skip a test where a tool of the system is not installed, or knows no such processor."""
    try:
        yield
    except InputError as e:
        if "apt-get install" in str(e) or "QEMU has no machine" in str(e):
            pytest.skip(str(e))
        raise
