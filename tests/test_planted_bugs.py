"""Bugs that must die: each is planted by replacing text, and a check of other tests must notice.

The first of each list are the defects of the released engine of the SparseUpdate paper: gradients
that overwrite each other at a fork, weight gradients of raw codes, requantisation and updates that
truncate, live tensors that overlap, the first k channels instead of the chosen ones.
"""

from __future__ import annotations

import functools
import importlib
import operator
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_ops
import test_passes
import test_plan
import test_quant
import test_tables
import test_views
from helpers import (
    SMALL_UNITS,
    call,
    gcc,
    linked,
    needs_gcc,
    network,
    quick_build,
    same_bits,
    small_network,
    step_feeds,
)
from samples import SAMPLES, Sample, cases

from kilograd import ops
from kilograd.emit import header, link, source
from kilograd.ir import DType, Op
from kilograd.ops import Adam, RowRms, Sgd
from kilograd.passes import LinearHead, PrototypeHead, Training, entries
from kilograd.targets import HostProgram
from kilograd.targets.cache import cache_folder
from kilograd.targets.toolchain import runtime_folder, runtime_sources

# ---- in C ----


@dataclass(frozen=True)
class CBug:
    """A text of the runtime, which occurs once, and what to write instead."""

    name: str
    file: str
    old: str
    new: str


C_BUGS = [
    CBug(
        "requantisation truncates",
        "include/kg_math.h",
        " + ((int64_t)1 << (f.shift - 1))) >>",
        ") >>",
    ),
    CBug(
        "TFLite's second rounding is half up",
        "include/kg_math.h",
        " - (high < 0)) >> more",
        ") >> more",
    ),
    CBug(
        "limits do not reach a layer",
        "include/kg_kernels.h",
        "kg_limit(y, g->out_h * g->out_w * g->out_c, l);",
        "(void)y, (void)g, (void)l;",
    ),
    CBug("one shift for all channels", "include/kg_kernels.h", "shift[c]};", "shift[0 * c]};"),
    CBug(
        "a mask has the limits of int8",
        "src/kg_elementwise.c",
        "y[i + j] > p->lowest",
        "y[i + j] > -128",
    ),
    CBug(
        "a stride down is one across",
        "src/kg_depthwise.c",
        "ix = ox * g->stride_w",
        "ix = ox * g->stride_h",
    ),
    CBug(
        "int8 wraps",
        "include/kg_math.h",
        "(int8_t)(x < -128 ? -128 : x > 127 ? 127 : x)",
        "(int8_t)x",
    ),
    CBug(
        "an update wraps",
        "src/kg_update.c",
        "(int8_t)limited(*q, whole, 127)",
        "(int8_t)(*q + whole)",
    ),
    CBug(
        "an update reaches -128",
        "src/kg_update.c",
        "limited(*q, whole, 127)",
        "kg_clip_i8(*q + whole)",
    ),
    CBug(
        "an update truncates toward zero",
        "src/kg_math.c",
        "    if ((float)floor > x) floor--;\n"
        "    return floor + ((float)(draw >> 9) + 0.5f < (x - (float)floor) * 8388608.0f);",
        "    (void)draw;\n    return floor;",
    ),
    CBug(
        "an update rounds to nearest",
        "src/kg_math.c",
        "(float)(draw >> 9) + 0.5f < (x - (float)floor) * 8388608.0f",
        "x - (float)floor >= 0.5f + 0 * (float)draw",
    ),
    CBug(
        "rounds down, not to odd",
        "include/kg_math.h",
        "(x >> shift) | (lost != 0)",
        "(x >> shift) | (lost > shift * 0xFFFFFFFFu)",
    ),
    CBug(
        "the tensor is not in the draw", "include/kg_kernels.h", "kg_hash(salt + 1)", "kg_hash(1)"
    ),
    CBug(
        "the step is not in the draw",
        "include/kg_kernels.h",
        "kg_hash((uint32_t)clock[1])",
        "kg_hash(0)",
    ),
    CBug(
        "the element is not in the draw",
        "src/kg_update.c",
        "kg_hash((uint32_t)element ^ key)",
        "kg_hash(key)",
    ),
    CBug("ascends", "src/kg_update.c", "-(d[j] * lr)", "(d[j] * lr)"),
    CBug("one scale for all rows", "src/kg_update.c", "u->scale[r]", "u->scale[0]"),
    CBug("a sum, not a mean of squares", "src/kg_update.c", "(sum / (float)u->length)", "sum"),
    CBug("time starts at zero", "src/kg_update.c", "clock[1] + 1, u)", "clock[1], u)"),
    CBug("Adam forgets to square", "src/kg_update.c", "(g[j] * g[j])", "g[j]"),
    CBug("the share is ignored", "src/kg_update.c", "+ g[j] * share);", "+ 0 * share + g[j]);"),
    CBug(
        "the scale of x is ignored",
        "src/kg_update.c",
        "kg_pow2(exponent) * u->gradient_scale",
        "kg_pow2(exponent)",
    ),
    CBug(
        "a bias wraps",
        "src/kg_update.c",
        "const int64_t sum = (int64_t)x + step;",
        "const int32_t sum = kg_add_wrapping(x, step);",
    ),
    CBug("a NaN is kept", "src/kg_math.c", "x < 0 ? -KG_FLOAT_MAX : 0;", "-KG_FLOAT_MAX;"),
    CBug("a momentum forgets", "src/kg_update.c", "m[j] = b1 * m[j] + g[j]", "m[j] = g[j]"),
    CBug(
        "codes round down", "src/kg_state.c", "x->codes_per_unit, draw)", "x->codes_per_unit, ~0u)"
    ),
    CBug("all rows have the first exponent", "src/kg_state.c", "+ size + r;", "+ size;"),
    CBug(
        "the largest code does not fit",
        "src/kg_state.c",
        "(float)((1 << digits) - 1)",
        "(float)(1 << digits)",
    ),
    CBug("moments round alike", "src/kg_state.c", "(2u << 30)", "(1u << 30)"),
    CBug("a root below one code", "src/kg_state.c", "(spread > code ? spread : code)", "spread"),
    CBug("the sum's exponent", "src/kg_update.c", "p->gradient_rows == 1 ? 0 : r", "0"),
    CBug("damaged moments stay", "src/kg_update.c", "*m = 0;", "(void)0;"),
    CBug("a damaged mean square counts", "src/kg_update.c", "? s0[r] : 0;", "? s0[r] : s0[r];"),
    CBug(
        "powers of two off by one",
        "src/kg_math.c",
        "kg_min(exponent, 127) + 127",
        "kg_min(exponent, 127) + 126",
    ),
    CBug("the wrong label", "src/kg_loss.c", "(k == *label ?", "(k == *label + 1 ?"),
    CBug("the loss of the wrong label", "src/kg_loss.c", "(logits[*label] - m)", "(logits[0] - m)"),
    CBug(
        "no maximum subtracted",
        "src/kg_loss.c",
        "sum += d[k] = kg_exp(logits[k] - m)",
        "sum += d[k] = kg_exp(logits[k])",
    ),
    CBug(
        "a prototype is replaced",
        "src/kg_enrol.c",
        "kg_finite(prototypes[i] + x[i])",
        "kg_finite(x[i])",
    ),
    CBug(
        "every class enrols as the first",
        "src/kg_enrol.c",
        "prototypes += *label * p->features;",
        "(void)label;",
    ),
    CBug(
        "the cosine's second term is lost",
        "src/kg_head.c",
        "along * prototypes[i] - back * x[i]",
        "along * prototypes[i] - 0 * back",
    ),
    CBug(
        "the second term of a prototype's gradient is lost",
        "src/kg_head.c",
        "along * x[i] - back * prototypes[i]",
        "along * x[i] - 0 * back",
    ),
    CBug(
        "every class looks up the first",
        "src/kg_enrol.c",
        "table += *label * p->features;",
        "(void)label;",
    ),
    CBug(
        "dx of a dense layer, transposed",
        "src/kg_head.c",
        "dy[k] * w[k * p->features + i]",
        "dy[k] * w[i * p->classes + k]",
    ),
    CBug(
        "the zero point is forgotten", "src/kg_head.c", "(float)(x[i] - p->zero)", "(float)(x[i])"
    ),
    CBug(
        "a window one short",
        "include/kg_kernels.h",
        "kg_min(kernel, size - origin)",
        "kg_min(kernel, size - origin - 1)",
    ),
    CBug(
        "padding reads the map",
        "include/kg_kernels.h",
        "origin < 0 ? -origin : 0",
        "origin < -1 ? -origin : 0",
    ),
    CBug(
        "an overlay is never found",
        "src/kg_shape.c",
        "overlay->index[low] == key ? low : -1",
        "overlay->index[low] == key ? -1 : -1",
    ),
    CBug("the mask passes 127", "src/kg_elementwise.c", "y[i + j] < 127", "y[i + j] <= 127"),
    CBug("the mask passes -128", "src/kg_elementwise.c", "y[i + j] > -128", "y[i + j] >= -128"),
    CBug(
        "exponents are not aligned", "src/kg_elementwise.c", "kg_min(common - c->exponent, 31)", "0"
    ),
    CBug(
        "an exponent is off by one",
        "src/kg_block.c",
        "w->exponent + shift :",
        "w->exponent + shift + 1 :",
    ),
    CBug(
        "a shift of what is not yet read",
        "src/kg_block.c",
        "i < pixel ? c + n : c",
        "c + n",
    ),
    CBug(
        "a shift forgets earlier channels",
        "src/kg_block.c",
        "i < pixel ? c + n : c",
        "i < pixel ? c + n : 0",
    ),
    CBug(
        "dx overwrites dy before it is read",
        "src/kg_depthwise.c",
        "copied < end; copied++",
        "copied < end - 1; copied++",
    ),
    CBug(
        "a row too few is kept",
        "src/kg_depthwise.c",
        "int16_t *to = rows + copied % g->kernel_h * row;",
        "int16_t *to = rows + copied % (g->kernel_h - 1) * row;",
    ),
    CBug(
        "zeros keep an exponent",
        "src/kg_elementwise.c",
        "seen ? exponent + shift : KG_ZERO_EXPONENT",
        "exponent + shift",
    ),
    CBug(
        "dW of a convolution takes raw x",
        "src/kg_conv_weight.c",
        "d * (from[i] - x_zero)",
        "d * from[i] + 0 * x_zero",
    ),
    CBug(
        "dW of a depthwise one takes raw x",
        "src/kg_depthwise_weight.c",
        "d[c] * (from[c] - p->x_zero)",
        "d[c] * from[c]",
    ),
    CBug(
        "columns for rows",
        "src/kg_conv.c",
        "scratch[t * in + overlay->index[j]] = *learned++",
        "scratch[t * in + j] = *learned++",
    ),
    CBug(
        "dX reads frozen columns",
        "src/kg_conv.c",
        "from = learned + o * taps * count + slot;",
        "from = learned + o * taps * count;",
    ),
    CBug(
        "a bias of another filter",
        "src/kg_conv.c",
        "kg_add_wrapping(acc[k], b[o + k])",
        "kg_add_wrapping(acc[k], b[o])",
    ),
    CBug(
        "learned filters one too far",
        "src/kg_depthwise.c",
        "learned[t * overlay->count + slot]",
        "learned[t * overlay->count]",
    ),
    CBug(
        "halves always round up",
        "include/kg_math.h",
        "rest == 0 && (q & 1)",
        "rest < 0 && (q & 1)",
    ),
    CBug(
        "a sum is not cleared",
        "src/kg_update.c",
        "memset(w, 0, (size_t)p->bytes)",
        "memset(w, 0, (size_t)(p->bytes / 2))",
    ),
    CBug(
        "the first k slices",
        "src/kg_shape.c",
        "from + p->index[i] * p->inner_bytes",
        "from + i * p->inner_bytes",
    ),
    CBug(
        "a part comes back among leftovers",
        "src/kg_shape.c",
        "memset(to, 0, (size_t)(p->outer * p->length * p->inner_bytes))",
        "memset(to, 0, (size_t)(p->length * p->inner_bytes))",
    ),
    CBug(
        "the exponent stays behind",
        "src/kg_pool.c",
        "size_t pixel = (size_t)p->pixel_bytes;\n    memcpy(to, from, (size_t)p->header);",
        "size_t pixel = (size_t)p->pixel_bytes;",
    ),
    CBug(
        "squares overlap",
        "src/kg_pool.c",
        "dy->mantissa + oy * p->down * row",
        "dy->mantissa + oy * row",
    ),
    CBug("a table begins elsewhere", "src/kg_table.c", "p->codes + 128", "p->codes + 127"),
    CBug("the slope of the next code", "src/kg_table.c", "p->slopes + 128", "p->slopes + 127"),
    CBug("a slope rounds down", "src/kg_table.c", " | ((v & lost) != 0)", ""),
    CBug("a product forgets a zero point", "src/kg_product.c", "(*x++ - p.x_zero)", "*x++"),
    CBug("a product has no limits", "src/kg_product.c", "kg_max(p.least, ", "kg_max(-128, "),
    CBug("a product rounds once", "src/kg_product.c", "(p->tflite)", "(0 && p->tflite)"),
    CBug("the last product only", "src/kg_product.c", "sum += dy->mantissa", "sum = dy->mantissa"),
    CBug("the first row of each part", "src/kg_shape.c", "x[i] + (size_t)o * bytes", "x[i]"),
    CBug("a margin of zero codes", "src/kg_shape.c", "memset(y, p->fill,", "memset(y, 0,"),
    CBug("no channels in front", "src/kg_shape.c", "p->out_channels + p->front", "p->out_channels"),
    CBug("half a square", "src/kg_pool.c", "i < p->size; i++", "i < (p->size + 1) / 2; i++"),
    CBug(
        "learned filters only in the first group",
        "src/kg_grouped.c",
        "kg_overlay_find(overlay, first + o)",
        "kg_overlay_find(overlay, o)",
    ),
    CBug(
        "groups share the scales of the first",
        "src/kg_grouped.c",
        "k++, part->scaling.scale += out)",
        "k++)",
    ),
    CBug(
        "groups share the shifts of the first",
        "src/kg_grouped.c",
        "if (limited.limits.shift) limited.limits.shift += out;",
        ";",
    ),
    CBug("a group has its own exponent", "src/kg_grouped.c", "old && k < c", "old && k < 0 * c"),
    CBug(
        "every filter reads what the first one does",
        "src/kg_grouped.c",
        "r->first != p->reads[o]",
        "r->first < 0",
    ),
    CBug("the last of the largest wins", "src/kg_max_pool.c", "code <= best", "code < best"),
    CBug("nothing is larger than zero", "src/kg_max_pool.c", "memset(y, -128,", "memset(y, 0,"),
    CBug(
        "a gradient goes to one place only",
        "src/kg_max_pool.c",
        "acc[k] += dy->mantissa",
        "acc[k] = dy->mantissa",
    ),
    CBug(
        "padding counts in a mean",
        "src/kg_mean_pool.c",
        "code_of(sum[k], (ky1 - ky0) * (kx1 - kx0),",
        "code_of(sum[k], g->kernel_h * g->kernel_w,",
    ),
    CBug("ties go up", "src/kg_mean_pool.c", "(rest || (y & 1))", "1"),
    CBug("zero goes up", "src/kg_mean_pool.c", "sum < 0 ? sum - n / 2", "sum < 0 ? sum + n / 2"),
    CBug(
        "TFLite rounds once",
        "include/kg_math.h",
        "- (high < 0)) >> more",
        ") >> more",
    ),
    CBug(
        "a share of padding",
        "src/kg_mean_pool.c",
        "/ (rows * columns)",
        "/ (rows * g->kernel_w + 0 * columns)",
    ),
]

PLAIN = gcc("-O1")


def compile_one(folder: Path, file: Path, runtime: Path) -> Path:
    """Compile a C file against the headers of a runtime."""
    PLAIN.compile(
        folder, "-fPIC", f"-I{runtime / 'include'}", "-I.", "-c", str(file), "-o", f"{file.stem}.o"
    )
    return folder / f"{file.stem}.o"


@functools.cache
def sound_objects() -> dict[str, Path]:
    """Compile the portable runtime and every sample, without a bug."""
    folder = cache_folder() / "sound"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.c").write_text(source(test_ops.program()), encoding="utf-8")
    (folder / "model.h").write_text(header(test_ops.program()), encoding="utf-8")
    files = [*runtime_sources(), folder / "model.c"]
    return {p.name: compile_one(folder, p, runtime_folder()) for p in files}


def load(folder: Path, objects: dict[str, Path]) -> HostProgram:
    """Link objects and load them."""
    PLAIN.compile(folder, "-shared", *map(str, objects.values()), "-lm", "-o", "model.so")
    return HostProgram(test_ops.program(), folder / "model.so")


def plant(folder: Path, bug: CBug) -> HostProgram:
    """Build the samples on a copy of the runtime that has the bug."""
    runtime = folder / "runtime"
    shutil.copytree(runtime_folder(), runtime)
    file = runtime / bug.file
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.old) == 1, (
        f"{bug.file} changed: {bug.old!r} occurs {text.count(bug.old)} times"
    )
    file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    changed = [file] if file.suffix == ".c" else sorted((runtime / "src").glob("*.c"))
    objects = sound_objects() | {p.name: compile_one(folder, p, runtime) for p in changed}
    return load(folder, objects)


@needs_gcc
def test_the_portable_runtime_has_none_of_them(tmp_path: Path) -> None:
    assert not list(test_ops.failures(load(tmp_path, sound_objects()), test_ops.CALLED))


@needs_gcc
@pytest.mark.parametrize("bug", C_BUGS, ids=lambda b: b.name)
def test_a_bug_in_c_dies(bug: CBug, tmp_path: Path) -> None:
    host = plant(tmp_path, bug)
    assert next(test_ops.failures(host, test_ops.CALLED), None) is not None


# ---- in Python: kernels cannot tell, because the reference defines them ----

Check = Callable[[], object]


@dataclass(frozen=True)
class PyBug:
    """A text of a module, what to write instead, which attributes to take from the result, and the
    check that must fail.
    """

    name: str
    module: str
    old: str
    new: str
    where: tuple[str, ...]  # module:attribute, or module:Class.attribute
    check: Check


def of(*kinds: type[Op]) -> list[Sample]:
    """The samples of some ops."""
    return [s for s in SAMPLES if isinstance(s.op, kinds)]


def meaning(*kinds: type[Op]) -> Check:
    """Backward ops against their float64 formulas."""

    def check() -> None:
        for s in of(*kinds):
            for case in cases.__wrapped__(s)[:5]:
                test_ops.check_meaning(s, case)

    return check


def gradients(*kinds: type[Op]) -> Check:
    """vjp against central differences."""

    def check() -> None:
        for s in of(*kinds):
            test_ops.check_gradient(s, cases.__wrapped__(s)[0], "random")

    return check


def kernels(*kinds: type[Op]) -> Check:
    """C against the reference, both as they are now."""

    def check() -> None:
        chosen = [s for s in of(*kinds) if s in test_ops.CALLED]
        host = quick_build(link({s.name: s.graph() for s in chosen}))
        for s in chosen:
            for case in cases.__wrapped__(s):
                test_ops.check_kernel(host, s, (), case)

    return check


def compiled() -> None:
    """A whole program in C against its reference."""
    test_passes.check_c_equals_reference(CASE)


def sparse() -> None:
    """The gradients of a selection against all gradients."""
    test_passes.check_sparse_is_part_of_dense(CASE)


def buildable() -> None:
    """The compiler's own checks."""
    link(entries(CASE.network, CASE.training))


def without_effort() -> None:
    """A solver that may not work proves nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["kilograd.memory.exact"], "greedy", test_plan.pile)
        test_plan.test_without_effort_nothing_is_claimed(None, patch)


def forks() -> None:
    """Reverse mode against forward mode where values are read twice."""
    test_passes.check_gradients_by_tangents(test_passes.forked(), 0)


def unsplit() -> None:
    """A program with a selection gives the logits of one without."""
    net = small_network()
    plain = linked(entries(net, Training(PrototypeHead(4), Sgd(0))))
    cut = linked(entries(net, Training(PrototypeHead(4), Sgd(0), test_passes.LEARN)))
    feeds = step_feeds(np.random.default_rng(0), entries(net, CASE.training)["enrol"], 4, 0, 0.1)
    for host in (plain, cut):
        call(host, "enrol", feeds)
    name = "head.prototypes"
    assert same_bits(plain.state[name].copy(), cut.state[name].copy())


CASE = test_passes.Case(1, SMALL_UNITS, 4, test_passes.LEARN, PrototypeHead(4), RowRms(0))
ZERO = "node.inputs[0].type.affine.zero_point"
GREEDY = ("kilograd.memory.greedy:_place",)
STORE = ("kilograd.emit.program:store",)
APPLIED = ("kilograd.ops.update:Update._applied",)

PY_BUGS = [
    PyBug(
        "a fork overwrites",
        "kilograd.passes.differentiate",
        "b(BlockAdd(), grad[x], dx) if x in grad else dx",
        "dx",
        ("kilograd.passes.training:differentiate",),
        forks,
    ),
    PyBug(
        "dW of a convolution takes raw x",
        "kilograd.ops.conv",
        f"block(xs[1])\n        centred = x.astype(np.int32) - {ZERO}",
        "block(xs[1])\n        centred = x.astype(np.int32)",
        ("kilograd.ops.conv:ConvWeightGrad.reference",),
        meaning(ops.ConvWeightGrad),
    ),
    PyBug(
        "dW of a depthwise convolution takes raw x",
        "kilograd.ops.depthwise",
        f"block(xs[1])\n        centred = x.astype(np.int64) - {ZERO}",
        "block(xs[1])\n        centred = x.astype(np.int64)",
        ("kilograd.ops.depthwise:DepthwiseWeightGrad.reference",),
        meaning(ops.DepthwiseWeightGrad),
    ),
    PyBug(
        "requantisation truncates",
        "kilograd.quant.fixed",
        "(scaled + half) >> shift64",
        "(scaled + 0 * half) >> shift64",
        ("test_quant:requantise",),
        test_quant.test_requantisation_rounds_half_up_and_never_truncates,
    ),
    PyBug(
        "an update truncates",
        "kilograd.ops.update",
        "rounded = stochastic_round(step, int(clock[0]), int(clock[1]), self.salt)",
        "rounded = step.astype(np.int64)",
        APPLIED,
        lambda: test_quant.test_a_hundredth_of_a_code_a_thousand_times_is_ten_codes(DType.I8, 0.01),
    ),
    PyBug(
        "an update truncates the difference",
        "kilograd.ops.update",
        "np.clip(param + rounded, -limit, limit)",
        "np.clip(np.trunc(param + step), -limit, limit)",
        APPLIED,
        test_quant.test_tiny_gradients_of_either_sign_do_not_shrink_weights,
    ),
    PyBug(
        "an update wraps",
        "kilograd.ops.update",
        "np.clip(param + rounded, -limit, limit)",
        "(param + rounded)",
        APPLIED,
        lambda: test_quant.test_weights_saturate_at_127_and_never_wrap(1),
    ),
    PyBug(
        "live tensors overlap",
        "kilograd.memory.greedy",
        "offset = max(offset, start + length)",
        "offset = max(offset, start)",
        GREEDY,
        buildable,
    ),
    PyBug(
        "exact plans overlap",
        "kilograd.memory.exact",
        "model.add_no_overlap_2d(lives, places)",
        "assert places",
        ("kilograd.memory.exact:_solve",),
        lambda: test_plan.test_exact_plans_improve_on_greedy(1156, 8, 7),
    ),
    PyBug(
        "a bound is claimed that nothing proves",
        "kilograd.memory.exact",
        "case cp_model.INFEASIBLE:",
        "case cp_model.INFEASIBLE | cp_model.UNKNOWN:",
        ("kilograd.memory.exact:_solve",),
        without_effort,
    ),
    PyBug(
        "a tensor dies before its last reader",
        "kilograd.passes.liveness",
        "last[x] = max(last[x], i)",
        "last[x] = max(last[x], i - 1)",
        STORE,
        compiled,
    ),
    PyBug(
        "an op overwrites what is still read",
        "kilograd.passes.liveness",
        "x in tensor and last[x] == i and",
        "x in tensor and",
        STORE,
        compiled,
    ),
    PyBug(
        "a view does not keep what it is of",
        "kilograd.passes.liveness",
        "last.update({n.holder: end for n in graph.outputs})",
        "last.update(dict.fromkeys(graph.outputs, end))",
        STORE,
        test_views.test_a_view_of_what_was_computed_is_returned,
    ),
    PyBug(
        "another order is no take",
        "kilograd.passes.prune",
        "if index == tuple(range(x.type.shape[axis]))",
        "if len(index) == x.type.shape[axis]",
        ("kilograd.passes.training:push_takes",),
        test_views.check_shuffle,
    ),
    PyBug(
        "the sum of a factor has no bound",
        "kilograd.passes.overflow",
        "x.type.size // n.type.size * _code_range(n.inputs[1])",
        "0",
        ("kilograd.passes.overflow:_gain",),
        lambda: test_passes.test_a_factor_leaves_room_for_the_sum_over_its_map(64, 11),
    ),
    PyBug(
        "a factor's gradient is that of its codes",
        "kilograd.ops.product",
        "_in_scale(b, b(ProductGrad(), dm, factor), factor)",
        "b(ProductGrad(), dm, factor)",
        ("kilograd.ops.product:Product.vjp",),
        gradients(ops.Product),
    ),
    PyBug(
        "a table keeps its slope where it clamps",
        "kilograd.quant.tables",
        "(exact < -128) | (exact > 127)",
        "(exact < -128) & (exact > 127)",
        ("test_tables:curve_slopes",),
        test_tables.test_where_a_table_clamps_it_has_no_slope,
    ),
    PyBug(
        "the first k channels instead of the chosen ones",
        "kilograd.passes.split",
        "np.take(graph.data[n.name], part.index, part.axis)",
        "np.take(graph.data[n.name], range(len(part.index)), part.axis)",
        ("kilograd.passes.training:split",),
        unsplit,
    ),
    PyBug(
        "an update runs before dX has read the weights",
        "kilograd.passes.schedule",
        "waits[n] |= {m for m in nodes if target in reads[m] and target not in _targets(m)}",
        "pass",
        ("kilograd.passes.training:schedule",),
        buildable,
    ),
    PyBug(
        "a selection of outputs cuts the inputs",
        "kilograd.passes.prune",
        "(x, b(cut, dy)) if axis == 0 else (b(cut, x), dy)",
        "(x, b(cut, dy)) if axis == 3 else (b(cut, x), dy)",
        ("kilograd.passes.training:push_takes",),
        buildable,
    ),
    PyBug(
        "sums are not cleared",
        "kilograd.passes.training",
        'outputs += [done, b(Clear(), total, done, name=f"{total.name}.clear")]',
        "outputs += [done]",
        ("kilograd.passes.training:_apply",),
        lambda: test_passes.check_summed_step_is_a_step(Sgd(0)),
    ),
    PyBug(
        "prototypes are not forgotten",
        "kilograd.ops.update",
        "ClearParams(node.type.nbytes)",
        "ClearParams(node.type.size)",
        ("kilograd.ops.update:Clear.kernel",),
        test_passes.check_forgetting,
    ),
    PyBug(
        "the wrong label",
        "kilograd.ops.loss",
        "p[label[0]] -= np.float32(1)",
        "p[label[0] - 1] -= np.float32(1)",
        ("kilograd.ops.loss:CrossEntropyGrad.reference",),
        gradients(ops.CrossEntropy),
    ),
    PyBug(
        "the cosine's second term is lost",
        "kilograd.ops.head",
        "along * p[k] - back * x",
        "along * p[k]",
        ("kilograd.ops.head:CosineInputGrad.reference",),
        gradients(ops.Cosine),
    ),
    PyBug(
        "an exponent is off by one",
        "kilograd.ops.elementwise",
        "normalise(product, dy.exponent + exponent - 15, self.bits)",
        "normalise(product, dy.exponent + exponent - 16, self.bits)",
        ("kilograd.ops.elementwise:ScaleChannels.reference",),
        meaning(ops.ScaleChannels),
    ),
    PyBug(
        "one weight scale for all channels",
        "kilograd.ops.conv",
        "ScaleChannels(w.type.affine.scale)",
        "ScaleChannels(w.type.affine.scale[:1] * len(w.type.affine.scale))",
        ("kilograd.ops.conv:layer_gradients",),
        gradients(ops.Conv),
    ),
    PyBug(
        "a clamp passes every gradient",
        "kilograd.ops.conv",
        "dm = b(ClipGrad(), dy, b(ClipMask(op.limits), node))",
        "dm = dy",
        ("kilograd.ops.conv:layer_gradients",),
        gradients(ops.Conv),
    ),
    PyBug(
        "the mask passes the lower limit",
        "kilograd.ops.elementwise",
        "(y > low) & (y < high)",
        "(y >= low) & (y < high)",
        ("kilograd.ops.elementwise:ClipMask.reference",),
        test_ops.test_the_gradient_of_a_clamp_is_zero_at_both_ends,
    ),
    PyBug(
        "the mean becomes a sum",
        "kilograd.ops.pool",
        "(1 / (h * w),) * c",
        "(1.0,) * c",
        ("kilograd.ops.pool:AvgPool.vjp",),
        gradients(ops.AvgPool),
    ),
    PyBug(
        "a residual passes nothing to its skip",
        "kilograd.ops.elementwise",
        "return dm, dm",
        "return None, dm",
        ("kilograd.ops.elementwise:Add.vjp",),
        forks,
    ),
    PyBug(
        "dX is shifted by the padding",
        "kilograd.ops.window",
        "return out[top : top + h, left : left + w]",
        "return out[:h, :w]",
        ("kilograd.ops.window:Window.scatter",),
        gradients(ops.Conv),
    ),
    PyBug(
        "padding at the top taken for padding at the left",
        "kilograd.ops.window",
        "across, top, left)",
        "across, top, top)",
        ("kilograd.ops.window:Window.params",),
        kernels(ops.Depthwise),
    ),
    PyBug(
        "dW is not in units of x",
        "kilograd.ops.conv",
        "BlockExponent(31, x.affine.scale[0])",
        "BlockExponent(31)",
        ("kilograd.ops.conv:ConvWeightGrad.infer",),
        meaning(ops.ConvWeightGrad),
    ),
    PyBug(
        "no quantisation-aware scaling",
        "kilograd.ops.update",
        "return codes / table.astype(np.float32)",
        "return np.ones(len(table), np.float32)",
        ("kilograd.ops.update:_codes_per_unit",),
        lambda: test_quant.test_a_hundredth_of_a_code_a_thousand_times_is_ten_codes(DType.I8, 0.01),
    ),
    PyBug(
        "learned weights count as ones",
        "kilograd.passes.overflow",
        "        out = np.maximum(out, _WIDEST_WEIGHT)\n    return out",
        "        out = np.ones(w.type.shape, np.int64)\n    return out",
        (
            "kilograd.passes.training:narrow_gradients",
            "kilograd.passes.training:accumulator_bounds",
            "test_passes:accumulator_bounds",
        ),
        lambda: test_passes.check_no_overflow(*test_passes.large_map()),
    ),
    PyBug(
        "codes are taken for at most 127 from zero",
        "kilograd.passes.overflow",
        "return max(zero + 128, 127 - zero)",
        "return 127",
        (
            "kilograd.passes.training:narrow_gradients",
            "kilograd.passes.training:accumulator_bounds",
            "test_passes:accumulator_bounds",
        ),
        lambda: test_passes.check_no_overflow(*test_passes.large_map()),
    ),
    PyBug(
        "a bit too many",
        "kilograd.passes.overflow",
        "while gain << bits[n] > _INT32",
        "while gain << bits[n] > 2 * _INT32",
        ("kilograd.passes.training:narrow_gradients",),
        test_passes.large_map,
    ),
    PyBug(
        "states share bytes",
        "kilograd.emit.program",
        "offset = aligned(offset + value.nbytes)",
        "offset = aligned(offset + value.nbytes - 4)",
        ("helpers:link",),
        compiled,
    ),
    PyBug(
        "Adam's time starts at zero",
        "kilograd.ops.update",
        "int(clock[1]) + 1)",
        "int(clock[1]) + 2)",
        ("kilograd.ops.update:Update.advance",),
        kernels(Adam),
    ),
]


def attribute(path: str) -> tuple[Any, str]:
    """Split module:A.b into the object that holds it and the name of the last part."""
    module, _, names = path.partition(":")
    *outer, name = names.split(".")
    holder: Any = importlib.import_module(module)
    for part in outer:
        holder = getattr(holder, part)
    return holder, name


def mutated(bug: PyBug) -> dict[str, Any]:
    """Run the module's text with the bug in it, under the module's own name."""
    module = importlib.import_module(bug.module)
    file = Path(str(module.__file__))
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.old) == 1, (
        f"{file.name} changed: {bug.old!r} occurs {text.count(bug.old)} times"
    )
    names: dict[str, Any] = {"__name__": bug.module, "__file__": str(file)}
    exec(compile(text.replace(bug.old, bug.new), str(file), "exec"), names)  # noqa: S102 our own text
    return names


@needs_gcc
@pytest.mark.parametrize("bug", PY_BUGS, ids=lambda b: b.name)
def test_a_bug_in_python_dies(bug: PyBug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.check()
    names = mutated(bug)
    for path in bug.where:
        holder, name = attribute(path)
        source_name = path.partition(":")[2]
        first, *rest = source_name.split(".")
        value = operator.attrgetter(".".join(rest))(names[first]) if rest else names[first]
        monkeypatch.setattr(holder, name, value)
    with pytest.raises((AssertionError, ValueError, ExceptionGroup)):
        bug.check()


def test_the_checks_above_run_on_a_network_with_forks() -> None:
    net = network(CASE.seed, CASE.units, stem=CASE.stem)
    assert any(isinstance(n.op, ops.Add) for n in net.nodes)
    assert isinstance(CASE.head, PrototypeHead | LinearHead)
