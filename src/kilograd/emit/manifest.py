"""What stands behind the numbers of a generated program, for people and tools."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kilograd import __version__
from kilograd.emit.c import stamp
from kilograd.emit.names import checked_name
from kilograd.emit.program import Entry, Program, Slot
from kilograd.ir import Affine, Leaf, Node

Fields = dict[str, object]


def manifest(program: Program, name: str = "model") -> str:
    """Return a program's manifest as JSON, in ASCII; docs/exported-project.md says what is in it.

    Raises `InputError` as `header` does.
    """
    upper = checked_name(name).upper()
    return (
        json.dumps(
            {
                "kilograd": __version__,
                "name": name,
                "stamp": stamp(program) if program.state else None,
                "state_bytes": program.state_bytes,
                "arena_bytes": program.arena_bytes,
                "entries": [_entry(e, f"{name}_{e.name}") for e in program.entries.values()],
                "state": [_slot(i, s, upper) for i, s in enumerate(program.state)],
                "constants": [
                    {"number": i, "name": key, "dtype": v.dtype.name, "shape": list(v.shape)}
                    for i, (key, v) in enumerate(program.constants.items())
                ],
            },
            indent=1,
        )
        + "\n"
    )


def _entry(entry: Entry, function: str) -> Fields:
    return {
        "function": function,
        "inputs": _ports(entry, function, entry.inputs),
        "outputs": _ports(entry, function, entry.outputs),
        "nodes": [
            {"number": i, "name": n.name, "op": type(n.op).__name__}
            for i, n in enumerate(entry.graph.nodes)
            if not isinstance(n.op, Leaf)
        ],
    }


def _ports(entry: Entry, function: str, nodes: Mapping[str, Node]) -> list[Fields]:
    """Describe inputs or outputs; an image that comes row by row has no place in the arena."""
    found: list[Fields] = []
    for c_name, n in nodes.items():
        kept = n in entry.storage.tensor
        affine = n.type.quant if isinstance(n.type.quant, Affine) else None
        found.append(
            {
                "name": n.name,
                "macro": f"{function}_{c_name}".upper() if kept else None,
                "offset": entry.offset(n) if kept else None,
                "dtype": n.type.dtype.numpy.name,
                "shape": list(n.type.shape),
                "scale": affine.scale[0] if affine else None,
                "zero_point": affine.zero_point if affine else None,
            }
        )
    return found


def _slot(number: int, slot: Slot, upper: str) -> Fields:
    return {
        "number": number,
        "name": slot.name,
        "macro": f"{upper}_STATE_{slot.c_name}".upper(),
        "offset": slot.offset,
        "bytes": slot.value.nbytes,
        "dtype": slot.value.dtype.name,
        "shape": list(slot.value.shape),
    }
