"""From entry points to a C program with a fixed memory map."""

from kilograd.emit.c import header, source, stamp
from kilograd.emit.manifest import manifest
from kilograd.emit.program import Entry, Program, Slot, bytes_kept, link

__all__ = [
    "Entry",
    "Program",
    "Slot",
    "bytes_kept",
    "header",
    "link",
    "manifest",
    "source",
    "stamp",
]
