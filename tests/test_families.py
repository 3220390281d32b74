"""The C library is cut like `kilograd.ops`: who reads an op knows where its kernel is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from samples import SAMPLES

from kilograd import ops
from kilograd.ir import Op
from kilograd.targets.toolchain import runtime_folder

SOURCES = sorted((runtime_folder() / "src").glob("*.c"))
HEADER = runtime_folder() / "include" / "kg.h"

#: Variants replace whole files, so gradients of weights have files of their own beside their
#: family's: of `avx2` only the others are made.
WEIGHTS = {"conv": "conv_weight", "depthwise": "depthwise_weight"}
#: What several families call, and what no op stands for.
SHARED = {"kg_block.c", "kg_frame.c", "kg_math.c", "kg_state.c", "kg_status.c"}


def family(op: Op) -> str:
    """Return the C file that the kernel of an op belongs into."""
    # an update on the way is asked of the gradient, which names the kernel
    source = op.grad if isinstance(op, ops.RowUpdate) else op
    if isinstance(source, ops.Update):  # with a state or without: one kernel serves all rules
        return "kg_update.c"
    module = type(source).__module__.rpartition(".")[2]
    weights = isinstance(source, ops.ConvWeightGrad | ops.DepthwiseWeightGrad)
    return f"kg_{WEIGHTS[module] if weights else module}.c"


def belongs() -> dict[str, str]:
    """Return the C file of each kernel, as the modules of `kilograd.ops` say."""
    nodes = [s.graph().outputs[0] for s in SAMPLES if not s.op.view]
    found: dict[str, str] = {}
    for n in nodes:  # the first has it: an AvgPool of TFLite's borrows the kernel of a MeanPool
        found.setdefault(n.op.kernel(n).symbol, family(n.op))
    return found


def defined(text: str) -> list[str]:
    """Return the kernels that a C file defines."""
    return re.findall(r"^(?:KG_COLD )?void (kg_\w+)\([^;{]*?_params \*p\) \{$", text, re.MULTILINE)


def test_every_kernel_is_in_the_file_of_its_family() -> None:
    found = {name: p.name for p in SOURCES for name in defined(p.read_text(encoding="utf-8"))}
    assert found == belongs()
    assert {p.name for p in SOURCES} == {*found.values(), *SHARED}


@pytest.mark.parametrize("folder", ["arm_dsp", "avx2"])
def test_variants_keep_the_families(folder: str) -> None:
    where = belongs()
    files = sorted((runtime_folder() / "variants" / folder).glob("*.c"))
    kernels = {p.name: defined(p.read_text(encoding="utf-8")) for p in files}
    assert any(kernels.values())
    assert all(where[k] == name for name, found in kernels.items() for k in found)


def test_the_header_says_the_file_of_every_kernel() -> None:
    _, *parts = re.split(
        r"^/// .*: (kg_\w+\.c) ///$", HEADER.read_text("utf-8"), flags=re.MULTILINE
    )
    sections = zip(parts[::2], parts[1::2], strict=True)
    declared = [(k, file) for file, text in sections for k in re.findall(r"void (kg_\w+)\(", text)]
    assert dict(declared) == belongs()
    assert len(declared) == len(belongs())


def test_the_pages_name_files_that_are_there() -> None:
    root = runtime_folder().parent
    pages = [*root.glob("*.md"), *(root / "docs").glob("*.md")]
    if not pages:
        pytest.skip("no documents beside this package")
    named = {m for p in pages for m in re.findall(r"runtime/[\w/]+\.[ch]\b", p.read_text("utf-8"))}
    assert named
    assert [m for m in sorted(named) if not (root / Path(m)).exists()] == []
