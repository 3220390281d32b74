"""Write docs/ops.md from the classes of `kilograd.ops` and the samples that test them.

`python docs/make_ops.py` writes the file; with `--check` it says whether the file is stale and
writes nothing.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from samples import CLOCK, RATE, SAMPLES, Sample  # noqa: E402 the tests are no package

from kilograd import ops  # noqa: E402
from kilograd.ir import Builder, Op, TensorType  # noqa: E402
from kilograd.ops._common import NotDifferentiableError  # noqa: E402

TARGET = ROOT / "docs" / "ops.md"
FAMILIES = (
    "conv",
    "depthwise",
    "grouped",
    "elementwise",
    "stream",
    "table",
    "product",
    "pool",
    "mean_pool",
    "max_pool",
    "shape",
    "head",
    "loss",
    "update",
    "state",
    "row_update",
    "enrol",
    "fisher",
)

INTRODUCTION = """\
# Every op

<!-- Written by docs/make_ops.py from the docstrings and the samples of the tests; do not edit. -->

An op is a class in `src/kilograd/ops/`; its numpy `reference` is its definition,
and its C kernel must give the same bits.
A family is one file here and one of the same name in `runtime/src/` (`pool.py`, `kg_pool.c`);
gradients of weights are apart there (`kg_conv_weight.c`).
The formulas are in [arithmetic.md](arithmetic.md), and how to add an op is in
[CONTRIBUTING.md](../CONTRIBUTING.md#add-an-op).

How to read the tables:

- *Types*: `i8` int8 codes, `u8` packed bits, `i32` int32, `f32` float32,
  `b16` a gradient (int16 mantissas with a shared exponent),
  `b32` sums of a gradient (int32, shared exponent).
  Several types in one place are alternatives, each of which a test covers.
  The updates end in the optimiser's *states* (f32), the learning rate *lr* (f32[1])
  and the *clock* (i32[2]: seed and step).
- *Memory*: "may take over x" says that the result may be written where x was,
  if it has the same size and nothing reads x later;
  "writes w" says that the op changes a parameter in place and makes no tensor of its own;
  "scratch" says that the kernel needs working memory while it runs, which the plan provides.
- *Gradient*: the ops that the backward pass of this one is made of.
"""


def samples_of(kind: type[Op]) -> list[Sample]:
    """Return the samples of one op."""
    return [s for s in SAMPLES if type(s.op) is kind]


def input_names(kind: type[Op]) -> list[str]:
    """Return what an op calls its inputs: the targets of the first unpacking of `xs`."""
    for method in (kind.infer, kind.reference):
        for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
            match n:
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=value) if reads_xs(value):
                    return [e.id for e in names if isinstance(e, ast.Name)]
    return []


def reads_xs(value: ast.expr) -> bool:
    """Say whether an expression is `xs`, or `xs` behind a map or a loop."""
    parts = list(ast.walk(value))
    return any(isinstance(n, ast.Name) and n.id == "xs" for n in parts) and not any(
        isinstance(n, ast.Subscript) for n in parts
    )


def kind_of(text: str) -> str:
    """Return the kind of a type: `b16` for every width of mantissa."""
    kind = text.partition("[")[0]
    return kind if kind == "b32" or not kind.startswith("b") else "b16"


def signature(kind: type[Op]) -> str:
    """Return inputs -> output, with every kind of tensor that is tested."""
    samples, names = samples_of(kind), input_names(kind)
    named = [
        f"{name}: {either(kind_of(str(s.types[i])) for s in samples)}"
        for i, name in enumerate(names)
    ]
    if not names:
        named = [either(kind_of(str(s.types[0])) for s in samples)]
    longest = max((s.types[len(named) :] for s in samples), key=len)
    output = either(kind_of(str(s.node().type)) for s in samples)
    return f"{', '.join([*named, *rest(longest)])} → {output}"


def rest(types: tuple[TensorType, ...]) -> list[str]:
    """Return how the inputs that an op does not name are called: the end of every update."""
    if types == (RATE,):
        return ["share"]
    if CLOCK in types:
        return [*(["states"] if len(types) > 2 else []), "lr", "clock"]
    return ["..."] if types else []


def either(kinds: Iterator[str]) -> str:
    return " or ".join(dict.fromkeys(kinds))


def kernels(kind: type[Op]) -> str:
    """Return the C functions that compute an op."""
    if kind.view:
        return "none: a view"
    return "<br>".join(dict.fromkeys(f"`{s.op.kernel(s.node()).symbol}`" for s in samples_of(kind)))


def memory(kind: type[Op]) -> str:
    """Say what an op overwrites and whether it needs scratch memory."""
    samples, names = samples_of(kind), input_names(kind)
    if kind.view:
        return "nothing is stored"
    words = []
    writes = max((s.op.writes for s in samples), key=len)
    if writes:
        target = names[0] if names else "its first input"
        words.append(f"writes {target}" + (" and its states" if len(writes) > 1 else ""))
    overwrites = max((s.op.overwrites for s in samples), key=len)
    if overwrites:
        words.append("may take over " + " or ".join(names[i] for i in overwrites))
    if any(s.op.kernel(s.node()).scratch for s in samples):
        words.append("scratch")
    return "; ".join(words) or "-"


def gradient(kind: type[Op]) -> str:
    """Return the ops that the gradient of an op is made of."""
    sample = samples_of(kind)[0]
    b = Builder()
    y = b(sample.op, *(b.input(f"x{i}", t) for i, t in enumerate(sample.types)))
    before = len(b.nodes)
    try:
        sample.op.vjp(b, y, b.input("dy", y.type))
    except NotDifferentiableError:
        return "-"
    return ", ".join(dict.fromkeys(type(n.op).__name__ for n in b.nodes[before + 1 :])) or "dy"


def first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def row(kind: type[Op]) -> str:
    meaning = " ".join((inspect.getdoc(kind) or "").split())
    cells = (
        f"`{kind.__name__}`",
        signature(kind),
        meaning.replace("|", "\\|"),
        kernels(kind),
        memory(kind),
        gradient(kind),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """Return the text of docs/ops.md."""
    parts = [INTRODUCTION]
    classes = [c for name in ops.__all__ if inspect.isclass(c := getattr(ops, name))]
    concrete = [c for c in classes if issubclass(c, Op) and not inspect.isabstract(c)]
    for family in FAMILIES:
        module = sys.modules[f"kilograd.ops.{family}"]
        members = [c for c in concrete if c.__module__ == module.__name__]
        members.sort(key=lambda c: inspect.getsourcelines(c)[1])
        parts += [
            f"## {family}",
            "",
            first_paragraph(inspect.getdoc(module) or ""),
            "",
            "| op | inputs → output | what it computes | C kernel | memory | gradient |",
            "|---|---|---|---|---|---|",
            *map(row, members),
            "",
        ]
    missing = [c.__name__ for c in concrete if c.__module__.rpartition(".")[2] not in FAMILIES]
    assert not missing, f"add the family of {missing} to FAMILIES"
    return "\n".join(parts)


def main() -> None:
    text = page()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit("docs/ops.md is stale: run python docs/make_ops.py")


if __name__ == "__main__":
    main()
