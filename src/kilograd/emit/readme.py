"""What an exported project says of itself: its README.md."""

from __future__ import annotations

from pathlib import Path

from kilograd.emit.program import Program
from kilograd.ir import Node, StreamedInput
from kilograd.passes import EntryPoint

#: What the stack of any program may need, whatever compiles it; `kilograd run` says how much does.
STACK_BYTES = 1536


def _image(program: Program) -> Node:
    return program.entries[EntryPoint.INFER].inputs["image"]


def readme(program: Program) -> str:
    """Return the page that leads into a project."""
    does = {name: _DOES[EntryPoint(name)] for name in program.entries}
    calls = "\n".join(f"- `model_{name}`: {text}" for name, text in does.items())
    by_rows = isinstance(_image(program).op, StreamedInput)
    return _README.format(
        state=f"{program.state_bytes:,}",
        arena=f"{program.arena_bytes:,}",
        shape="x".join(map(str, _image(program).type.shape)),
        stack=STACK_BYTES,
        calls=calls,
        rows=_ROWS if by_rows else "",
    )


_DOES = {
    EntryPoint.INFER: "image in, logits out; the largest one is the class.",
    EntryPoint.PREFIX: "image in; out comes what `enrol` and `step` read in its place.",
    EntryPoint.ENROL: "image and label in; adds the image to the prototype of its class.",
    EntryPoint.FORGET: "empties the prototypes, before the support is enrolled anew.",
    EntryPoint.STEP: "image, label, and rate and clock (or the share) in; loss out; learns.",
    EntryPoint.ENROL_GRAD: "image and label in; what prototypes add to the gradients.",
    EntryPoint.APPLY: "rate and clock in; updates from the accumulated gradients.",
}

_README = """\
# A training program

Plain C99, made by kilograd.  `make` builds a library and an example for this machine;
the Makefile says how to cross-compile.

Memory is yours: a *state* of {state} bytes that keeps what was learned, and an *arena* of {arena}
bytes for the time of a call, both 4-byte aligned.  Save the state to keep what was learned.
Nothing is allocated, and the stack stays below {stack:,} bytes.

Call `model_init(state)` once.  Then write the inputs of an entry point into the arena, at the
offsets that `model.h` names, call it, and read its outputs there.  Images are int8 {shape},
`pixel - 128`; labels count from 0; the clock is a seed and the number of the step, from 0.

Every call returns a `kg_status` (`runtime/include/kg_status.h`).  `KG_OK` is 0; anything else says
what is wrong with memory, state or inputs, and then nothing was written: state and arena are as
they were.  `kg_status_text` says it in words.  A state that another program filled is refused.

`model.json` says what stands behind the numbers in `model.c`: layers, parameters and their names.

{calls}
{rows}
`example.c` shows the order of calls.
"""

_ROWS = """
The image is never in memory as a whole: a `kg_rows` given to these calls holds a function that
they ask for row 0, row 1, and so on, each once.  It may wait for a camera;
`kg_image_row` (in `kg.h`) reads an image that lies in memory, such as flash.
"""


def append(file: Path, text: str) -> None:
    """Add to a page that is written."""
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
