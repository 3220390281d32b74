"""Every field of every C struct: what Python refuses, what C refuses, and that they agree."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import replace_tensors, write_model
from helpers import assert_same, call, gcc, linked, needs_gcc
from samples import Sample, activation, bias, cases, gradient, sample, weight
from test_ops import CALLED

from kilograd.emit import link
from kilograd.emit.c import _literal
from kilograd.errors import InputError
from kilograd.frontend import load_model_folder
from kilograd.ir import (
    Affine,
    Builder,
    Kernel,
    Params,
    Range,
    RangeError,
    TensorType,
)
from kilograd.ir.params import INT32_MAX, members
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import (
    AvgPool,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Depthwise,
    Window,
    WindowPool,
)
from kilograd.passes import LimitError, check_ranges
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets.toolchain import runtime_folder

ROOT = Path(__file__).parents[1]
C_TYPES = {
    "int8_t": (-128, 127),
    "int16_t": (-(1 << 15), (1 << 15) - 1),
    "int32_t": (-(1 << 31), (1 << 31) - 1),
    "uint32_t": (0, (1 << 32) - 1),
}


def ranges(record: Params) -> dict[str, Range]:
    """Return the fields that are numbers or tables of numbers."""
    return {k: x for k, x in members(type(record)).items() if isinstance(x, Range)}


def inside(record: Params) -> Iterator[Params]:
    """Yield a record and those in it."""
    yield record
    for name in members(type(record)):
        part = getattr(record, name)
        if isinstance(part, Params):
            yield from inside(part)


def records_of(kernel: Kernel) -> Iterator[Params]:
    """Yield every record of a call."""
    yield from inside(kernel.params)
    for stage in kernel.stages:
        yield from inside(stage.layout)
        if stage.kernel:
            yield from records_of(stage.kernel)


#: One record of every kind.  Those with tables first, so that none stands for a null pointer.
RECORDS = {
    type(r): r
    for s in CALLED
    for r in sorted(records_of(s.op.kernel(s.node())), key=lambda r: len(list(r.tables())))
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=lambda r: r.c_name())


def subclasses(kind: type[Params]) -> Iterator[type[Params]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_there_is_a_record_of_every_kind() -> None:
    assert set(RECORDS) == set(subclasses(Params))


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not here")
def test_the_header_is_up_to_date() -> None:
    command = [sys.executable, "docs/make_params.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_groups_that_exceed_int32_together_are_refused() -> None:
    record = next(r for kind, r in RECORDS.items() if kind.c_name() == "kg_grouped_conv_params")
    window = replace(record.value("conv.window"), in_h=1 << 13, in_w=1 << 13, in_c=16)
    large = {"conv": replace(record.value("conv"), window=window), "groups": 2}
    with pytest.raises(RangeError, match="groups"):
        replace(record, **large)


@each_record
def test_what_a_field_may_hold_fits_its_c_type(record: Params) -> None:
    for kind in ranges(record).values():
        if kind.c_type == "float":
            assert np.float32(kind.least) == kind.least
            assert np.float32(kind.most) == kind.most
            assert np.isfinite(np.float32(kind.most))
        else:
            least, most = C_TYPES[kind.c_type]
            assert least <= kind.least <= kind.most <= most


def outside(record: Params) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a record, each with a value beside its range that its C type holds."""
    for name, kind in ranges(record).items():
        value = getattr(record, name)
        if value is None or isinstance(value, np.ndarray):
            continue
        if kind.c_type == "float":
            bad: list[Any] = [kind.least / 2 - 1e-30, 2 * kind.most, float("nan"), float("inf")]
        else:
            low, high = C_TYPES[kind.c_type]
            bad = [x for x in (int(kind.least) - 1, int(kind.most) + 1) if low <= x <= high]
        for x in bad:
            if isinstance(value, tuple):
                yield name, (x, value[1])
                yield name, (value[0], x)
            else:
                yield name, x


@each_record
def test_a_value_beside_its_range_is_refused(record: Params) -> None:
    for name, bad in outside(record):
        with pytest.raises(RangeError, match=f"{record.c_name()}.{name} is "):
            replace(record, **{name: bad})
    for name, kind in ranges(record).items():
        table = getattr(record, name)
        if isinstance(table, np.ndarray) and kind.least == 1:
            with pytest.raises(RangeError, match=f"{record.c_name()}.{name} is 0, at least 1"):
                replace(record, **{name: np.append(table, table.dtype.type(0))})


def test_tables_have_the_type_that_c_reads() -> None:
    for record in RECORDS.values():
        for name, table in vars(record).items():
            if isinstance(table, np.ndarray):
                with pytest.raises(TypeError, match=name):
                    replace(record, **{name: table.astype(np.int64)})


def test_products_that_exceed_int32_are_refused() -> None:
    for record in RECORDS.values():
        for factors in record.products:
            names = [f for f in factors if isinstance(f, str) and "." not in f]
            ends = {f: int(ranges(record)[f].most) for f in names}
            inner = math.prod(
                record.value(f) if isinstance(f, str) else f for f in factors if f not in names
            )
            if ends and inner * math.prod(ends.values()) > INT32_MAX:
                with pytest.raises(RangeError):
                    replace(record, **ends)


# ---- the same in C ----


def initialiser(record: Params, name: str = "", bad: Any = None) -> str:
    """Write a record as C, with one field replaced; tables are any pointer."""
    fields = []
    for place, value in record.values():
        head, _, index = place.partition("[")
        x = value
        if head == name:
            x = bad[int(index[:-1])] if index else bad
        if isinstance(x, np.ndarray):
            text = "(const void *)&table"
        elif isinstance(x, float):
            text = {"nan": "NAN", "inf": "INFINITY"}.get(str(x), repr(x))
        else:
            text = "0" if x is None else str(x)
        fields.append(f".{place} = {text}")
    return f"&(const {record.c_name()}){{{', '.join(fields)}}}"


@needs_gcc
def test_c_refuses_what_python_refuses(tmp_path: Path) -> None:
    lines: list[str] = []
    for record in RECORDS.values():
        c = record.c_name()
        lines.append(f"check({c}_ok({initialiser(record)}) == 1, {len(lines)});")
        lines += [
            f"check({c}_ok({initialiser(record, name, bad)}) == 0, {len(lines) + i});"
            for i, (name, bad) in enumerate(outside(record))
        ]
        for name in members(type(record)):
            required = isinstance(getattr(record, name), np.ndarray) and name != "scale"
            if required and name not in {"index", "shift"}:
                lines.append(f"check({c}_ok({initialiser(record, name, 0)}) == 0, {len(lines)});")
    assert len(lines) > 250
    (tmp_path / "main.c").write_text(
        '#include <math.h>\n#include <stdio.h>\n#include "kg.h"\nstatic const int32_t table;\n'
        "static int wrong;\nstatic void check(int ok, int at) {\n"
        '    if (!ok) { wrong = 1; printf("%d\\n", at); }\n}\n'
        "int main(void) {\n" + "\n".join(lines) + "\nreturn wrong;\n}\n",
        encoding="utf-8",
    )
    gcc("-O1", "-Wall", "-Wextra", "-Werror").compile(
        tmp_path, f"-I{runtime_folder() / 'include'}", "main.c", "-o", "main"
    )
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, [lines[int(i)] for i in done.stdout.split()]


# ---- large layers ----


def large(op: Conv | Depthwise, x: TensorType, w: TensorType) -> Iterator[Sample]:
    """Yield a layer and its gradients."""
    channels = w.affine.axis or 0
    dy = gradient(*op.infer(x, w, bias(w.shape[channels])).shape, bits=11)
    yield sample(op, x, w, bias(w.shape[channels]))
    if isinstance(op, Conv):
        yield sample(ConvInputGrad(op.window, x.shape), dy, w)
        yield sample(ConvWeightGrad(op.window, w.shape), x, dy)


OUT = Affine((4.0,), -3)
LARGE = {
    "640 wide": large(Conv(Window.same(3), OUT), activation(3, 640, 3), weight(4, 3, 3, 3)),
    "4,096 channels in": large(Conv(Window(), OUT), activation(1, 2, 4096), weight(5, 1, 1, 4096)),
    "4,096 channels out": large(Conv(Window(), OUT), activation(2, 1, 5), weight(4096, 1, 1, 5)),
    "32,767 wide": large(Conv(Window(), OUT), activation(1, 32767, 2), weight(3, 1, 1, 2)),
    "32,767 channels": large(
        Depthwise(Window.same(3), OUT), activation(2, 2, 32767), weight(3, 3, 32767, axis=2)
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_layers_compute_what_their_references_do(name: str) -> None:
    for i, s in enumerate(LARGE[name]):
        named = Sample(s.op, s.types, f"large{i}")
        host = linked({"run": named.graph()})
        for case in cases(named)[:4]:
            assert_same(call(host, "run", case.feeds), case.want, name)


# ---- what does not fit is refused where it is read ----


def stem_only(folder: Path, **stem: Any) -> Path:
    """Write a model folder of one convolution with other attributes, a pool and a classifier."""
    path = write_model(folder)
    file = path / "graph.json"
    d = json.loads(file.read_text("utf-8"))
    layer, pool, classifier = (d["ops"][i] for i in (0, -2, -1))
    layer.update(stem)
    channels = layer["out_channels"]
    pool.update(inputs=[layer["output"]], out_shape=[channels], out=layer["out"])
    classifier["in_channels"] = channels
    replace_tensors(path, {"classifier.weight": np.ones((3, channels), np.int8)})
    d["ops"] = [layer, pool, classifier]
    file.write_text(json.dumps(d), "utf-8")
    return path


def test_the_folder_of_these_tests_is_sound(tmp_path: Path) -> None:
    assert load_model_folder(stem_only(tmp_path / "sound")).layers == ("stem",)


def test_a_layer_beyond_int16_is_refused_when_it_is_read(tmp_path: Path) -> None:
    for i, (change, what) in enumerate(
        [
            (
                {"padding": [40000, 1, 0, 1], "out_shape": [8, 20008, 8]},
                r"'stem': padding\[0\]: expected int <= 32767",
            ),
            (
                {"padding": [32767, 32767, 0, 1], "out_shape": [8, 32774, 8]},
                r"'stem': out_shape\[1\]: expected int <= 32767",
            ),
            (
                {"stride": [65537, 65537], "padding": [0, 1, 0, 1], "out_shape": [8, 1, 1]},
                r"'stem': stride\[0\]: expected int <= 32767",
            ),
        ]
    ):
        folder = stem_only(tmp_path / str(i), **change)
        with pytest.raises(InputError, match=what):
            load_model_folder(folder)


def test_a_scale_that_float32_cannot_follow_is_refused(tmp_path: Path) -> None:
    for i, scale in enumerate((1e17, 1e-30)):
        folder = stem_only(tmp_path / str(i), out={"scale": scale, "zero_point": -128})
        with pytest.raises(InputError, match="'stem'"):
            load_model_folder(folder)


def test_a_graph_is_refused_with_its_node_and_the_limit() -> None:
    b = Builder()
    b(AvgPool(), b.input("wide", activation(3000, 3000, 1)), name="pooled")
    limit = r"'pooled' .*kg_avg_pool_params\.pixels is 9000000, at most 8355967"
    with pytest.raises(LimitError, match=limit):
        check_ranges(b.graph(b.nodes[-1]))


def test_an_arena_beyond_int32_is_refused() -> None:
    b = Builder()
    x = b.input("x", activation(32767, 32767, 1))
    maps = [b(WindowPool(1), x) for _ in range(2)]
    with pytest.raises(LimitError, match="the arena of this program has 3221"):
        link({"run": b.graph(*maps)})


def test_a_program_that_is_too_large_is_the_users_to_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = load_model_folder(write_model(tmp_path / "small"))

    def refuse(*args: object) -> None:
        raise LimitError("the arena of this program has 5000000000 bytes, at most 2147483647")

    monkeypatch.setattr("kilograd.learn.recipe.link", refuse)
    with pytest.raises(InputError, match="method last on small: the arena"):
        compile_recipe(model, Recipe("last", 3), Budget())


@needs_gcc
def test_every_float_that_a_field_may_hold_is_a_literal(tmp_path: Path) -> None:
    """Compilers warn of a literal that float32 cannot hold."""
    kinds = [k for r in RECORDS.values() for k in ranges(r).values() if k.c_type == "float"]
    ends = sorted({float(x) for k in kinds for x in (k.least, k.most, (k.least + k.most) / 3)})
    lines = [f"if ({_literal(x)} != (float){x!r}) return 1;" for x in ends]
    text = "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    (tmp_path / "main.c").write_text(text, encoding="utf-8")
    gcc("-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror").compile(
        tmp_path, "main.c", "-o", "main"
    )
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 0
