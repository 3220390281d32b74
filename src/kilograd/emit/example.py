"""A C program that trains on made-up images: how entry points are meant to be called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kilograd.emit.program import Entry, Program
from kilograd.ir import Node, StreamedInput
from kilograd.passes import ENROLMENT, UPDATE, EntryPoint, Over, Phase

_GIVEN = {
    "label": "&way, sizeof way",
    "lr": "&lr, sizeof lr",
    "share": "&share, sizeof share",
    "clock": "clock, sizeof clock",
}
_DECLARED = {
    "lr": "const float lr = 0.003f;",
    "share": "const float share = 1.0f / {images}; /* 1 / n when n images share an update */",
    "clock": "int32_t clock[2] = {{1, 0}}; /* seed, number of the update */",
}


def example(program: Program) -> str:
    """Return the program: ten passes over a support of two images, in the order of `passes.calls`.

    Each image is the only one of its class; a group is both of them.  Where there is one class,
    there is one image.
    """
    (image,) = program.entries[EntryPoint.INFER].inputs.values()
    picture = ""
    if isinstance(image.op, StreamedInput):
        _, width, channels = image.type.shape
        picture = _PICTURE.format(size=image.type.size, row_bytes=width * channels)
    latent = [
        f"static int8_t {name}[{node.type.nbytes}]; /* one for each view that is kept */\n"
        for name, node in _latent(program).items()
    ]
    enrolment = "".join(f"    {line}\n" for line in _calls(program, ENROLMENT))
    return _EXAMPLE.format(
        size=image.type.size,
        memory="".join([picture, *latent, "\n" * bool(latent)]),
        enrolment=_ENROLMENT.format(body=enrolment) if enrolment else "",
        body="".join(f"    {line}\n" for line in _main(program, enrols=bool(enrolment))),
    )


def _main(program: Program, *, enrols: bool) -> Iterator[str]:
    """Yield what `main` does with a state: learn, and infer."""
    again = ["enrol(state, arena);"] * enrols
    entries = [program.entries[p.entry] for p in UPDATE if p.entry in program.entries]
    if entries:
        taken = {name for entry in entries for name in entry.inputs}
        images = _images(program)
        yield from (_DECLARED[n].format(images=images) for n in _DECLARED if n in taken)
        yield "float loss;"
        yield "for (int32_t pass = 0; pass < 10; pass++) {"
        yield from _indented([*again, *_calls(program, UPDATE)])
        yield "}"
    yield from again
    yield from _calls(program, [Phase(EntryPoint.INFER, Over.SUPPORT)])


def _calls(program: Program, phases: Iterable[Phase]) -> Iterator[str]:
    """Yield the calls of those phases that the program has."""
    for phase in phases:
        if phase.entry not in program.entries:
            continue
        call = _call(program, program.entries[phase.entry])
        if phase.over is Over.ONCE:
            yield from call
        else:
            yield f"for (int32_t way = 0; way < {_images(program)}; way++) {{"
            yield from _indented(call)
            yield "}"


def _call(program: Program, entry: Entry) -> Iterator[str]:
    """Yield a call with all that it is given, and what is done with what it returns."""
    latent = [name for name in _latent(program) if name in entry.inputs]
    if latent:
        prefix = program.entries[EntryPoint.PREFIX]
        yield from _call(program, prefix)
        for name in latent:
            yield f"memcpy({name}, arena + {_port(prefix, name)}, sizeof {name});"
            yield f"memcpy(arena + {_port(entry, name)}, {name}, sizeof {name});"
    for name, node in entry.inputs.items():
        if name in _GIVEN:
            yield f"memcpy(arena + {_port(entry, name)}, {_GIVEN[name]});"
        elif name not in latent:
            streamed = isinstance(node.op, StreamedInput)
            to = "picture" if streamed else f"(int8_t *)arena + {_port(entry, name)}"
            yield f"draw({to}, way);"
    rows = ", &camera" * len(entry.rows)
    yield f"check(model_{entry.name}(state, arena{rows}));"
    if entry.name == EntryPoint.STEP:
        yield f"memcpy(&loss, arena + {_port(entry, 'loss')}, sizeof loss);"
        yield 'printf("pass %d, class %d: loss %f\\n", (int)pass, (int)way, (double)loss);'
    if "clock" in entry.inputs:
        yield "clock[1]++;"


def _images(program: Program) -> int:
    """Return how many images the support has: one of each class, at most two."""
    (logits,) = program.entries[EntryPoint.INFER].graph.outputs
    return min(2, logits.type.size)


def _latent(program: Program) -> dict[str, Node]:
    """Return what stands in place of an image, by its name in C; nothing without a cut."""
    prefix = program.entries.get(EntryPoint.PREFIX)
    return prefix.outputs if prefix else {}


def _port(entry: Entry, name: str) -> str:
    return f"MODEL_{entry.name}_{name}".upper()


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


_PICTURE = """\
static int8_t picture[{size}];
static const kg_image image = {{picture, {row_bytes}}};
static const kg_rows camera = {{kg_image_row, (void *)&image}};

"""

_ENROLMENT = """\
/* Makes the prototypes anew from the support. */
static void enrol(uint8_t *state, uint8_t *arena) {{
{body}}}

"""

_EXAMPLE = """\
/* Trains on made-up images, to show the order of calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static void check(kg_status status) {{
    if (status == KG_OK) return;
    fprintf(stderr, "%s\\n", kg_status_text(status));
    exit(1);
}}

/* The support: one picture of each class, the same whenever it is shown. */
static void draw(int8_t *image, int32_t way) {{
    srand((unsigned)way);
    for (int32_t i = 0; i < {size}; i++) image[i] = (int8_t)(rand() % 100 - 50 + 40 * way);
}}

{memory}{enrolment}int main(void) {{
    uint8_t *state = malloc(MODEL_STATE_BYTES + 4), *arena = malloc(MODEL_ARENA_BYTES + 4);
    if (!state || !arena) return 1;
    check(model_init(state));
{body}    free(arena);
    free(state);
    return 0;
}}
"""
