"""From entry points to a C program with a fixed memory map."""

from kilograd.emit.c import c_name, header, source
from kilograd.emit.program import Entry, Program, Slot, link

__all__ = ["Entry", "Program", "Slot", "c_name", "header", "link", "source"]
