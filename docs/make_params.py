"""Write runtime/include/kg_params.h from the records of `kilograd.ops`.

`python docs/make_params.py` writes the file; with `--check` it says whether the file is stale and
writes nothing.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from kilograd import ops
from kilograd.ir import Array, Params, Range
from kilograd.ir.params import INT32_MAX, members

TARGET = Path(__file__).parents[1] / "runtime" / "include" / "kg_params.h"

#: What the C type itself leaves out needs no test, and compilers warn of one.
LIMITS = {
    "int8_t": (-128, 127),
    "int16_t": (-(1 << 15), (1 << 15) - 1),
    "int32_t": (-(1 << 31), INT32_MAX),
    "uint32_t": (0, (1 << 32) - 1),
}

INTRODUCTION = """\
/* What kernels are told: every struct, every field, and the values that a kernel takes.
 *
 * Written by docs/make_params.py from the records of src/kilograd/ops; do not edit.  A field of
 * type T * is a table in flash, and its range is that of its elements.  kg_NAME_ok says whether
 * all fields are in range, as the compiler makes sure; kernels assert it in checked builds. */
#ifndef KG_PARAMS_H
#define KG_PARAMS_H

#include <stdint.h>
"""


def records() -> list[type[Params]]:
    """Return every record, those in front that others hold."""
    found: dict[type[Params], None] = {}

    def add(record: type[Params]) -> None:
        for kind in members(record).values():
            if isinstance(kind, type):
                add(kind)
        found[record] = None

    for module in vars(ops).values():
        if isinstance(module, types.ModuleType):
            own = [x for x in vars(module).values() if is_record(x)]
            for record in sorted(own, key=lambda x: inspect.getsourcelines(x)[1]):
                add(record)
    return list(found)


def is_record(x: object) -> bool:
    return isinstance(x, type) and issubclass(x, Params) and x is not Params


def shown(x: float) -> str:
    """Write a limit as a person would: 2^16, 1 - 2^-24."""
    if x == int(x) and abs(x) < 1 << 31:
        return str(int(x))
    for power in range(-130, 130):
        if x == 2.0**power:
            return f"2^{power}"
        if x == 2.0**power - 1 or x == 1 - 2.0**power:
            return f"2^{power} - 1" if x > 1 else f"1 - 2^{power}"
    raise AssertionError(x)


def literal(x: float, c_type: str) -> str:
    return f"{float(x)!r}f" if c_type == "float" else str(int(x))


def declaration(record: type[Params], name: str, kind: Range | type[Params]) -> tuple[str, str]:
    """Return a member of a struct, and a comment on its values."""
    if not isinstance(kind, Range):
        return f"{kind.c_name()} {name};", ""
    span = f"{shown(kind.least)} .. {shown(kind.most)}"
    hint = get_type_hints(record)[name]
    if is_table(hint):
        return f"const {kind.c_type} *{name};", f"{span}, or null" if is_optional(hint) else span
    size = f"[{len(get_args(hint))}]" if get_origin(hint) is tuple else ""
    return f"{kind.c_type} {name}{size};", span


def is_optional(hint: object) -> bool:
    return types.NoneType in get_args(hint)


def is_table(hint: object) -> bool:
    return hint == Array or is_optional(hint)


def tests(record: type[Params]) -> Iterator[str]:
    """Yield what must not be so."""
    for name, kind in members(record).items():
        hint = get_type_hints(record)[name]
        if not isinstance(kind, Range):
            yield f"!{kind.c_name()}_ok(&p->{name})"
        elif is_table(hint):
            if not is_optional(hint):
                yield f"!p->{name}"
        elif kind.c_type == "float":
            least, most = literal(kind.least, "float"), literal(kind.most, "float")
            yield f"!(p->{name} >= {least} && p->{name} <= {most})"
        else:
            count = len(get_args(hint)) if get_origin(hint) is tuple else 0
            for field in [f"{name}[{i}]" for i in range(count)] or [name]:
                low, high = LIMITS[kind.c_type]
                outside = [f"p->{field} < {int(kind.least)}"] * (kind.least > low)
                outside += [f"p->{field} > {int(kind.most)}"] * (kind.most < high)
                yield " || ".join(outside)
    for factors in record.products:
        terms = [f"{f}.0" if isinstance(f, int) else f"p->{f}" for f in factors]
        first = terms[0] if isinstance(factors[0], int) else f"(double){terms[0]}"
        yield f"{' * '.join([first, *terms[1:]])} > {INT32_MAX}.0"
    for small, large in record.ordered:
        yield f"p->{small} > p->{large}"


def struct(record: type[Params]) -> str:
    """Return a struct and its check."""
    name, text = record.c_name(), " ".join((inspect.getdoc(record) or "").split())
    lines = [(f"{kind}{pointer};", "") for pointer, kind in record.pointers.items()]
    lines += [declaration(record, field, kind) for field, kind in members(record).items()]
    width = max((len(code) for code, comment in lines if comment), default=0)
    body = [
        f"    {code:<{width}} /* {comment} */" if comment else f"    {code}"
        for code, comment in lines
    ]
    checks = [line for test in tests(record) if test for line in condition(test)]
    return "\n".join(
        [
            *textwrap.wrap(f"/* {text} */", 100, subsequent_indent=" * "),
            "typedef struct {",
            *body,
            f"}} {name};",
            "",
            f"static inline int {name}_ok(const {name} *p) {{",
            *checks,
            "    return 1;",
            "}",
            "",
        ]
    )


def condition(test: str) -> list[str]:
    """Return a test as clang-format would break it."""
    line = f"    if ({test}) return 0;"
    if len(line) <= 100:
        return [line]
    return [*textwrap.wrap(f"    if ({test})", 100, subsequent_indent=" " * 8), "        return 0;"]


def page() -> str:
    """Return the text of kg_params.h."""
    return "\n".join([INTRODUCTION, *map(struct, records()), "#endif", ""])


def main() -> None:
    text = page()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit("runtime/include/kg_params.h is stale: run python docs/make_params.py")


if __name__ == "__main__":
    main()
