"""One contract, every op: types, meaning, gradient, kernel.  Samples: samples.py."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import (
    COMPILERS,
    CURVED,
    FORMULAS,
    UNCLAMPED,
    assert_same,
    call,
    conv64,
    formula,
    gcc,
    grouped64,
    needs_gcc,
    passed,
    places,
    put,
    real,
    same_bits,
)
from samples import SAMPLES, Case, Sample, cases, draw, gradient, hostile_cases

from kilograd import ops
from kilograd.emit import Program, link
from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Leaf,
    Op,
    ShapeError,
    TensorType,
    Value,
    interpret,
)
from kilograd.ops._common import NotDifferentiableError
from kilograd.quant import ZERO_EXPONENT, bit_length
from kilograd.targets import HostProgram, build_host
from kilograd.targets.runner import Runner
from kilograd.targets.toolchain import Compiler

CONCRETE = {
    op
    for op in (getattr(ops, name) for name in ops.__all__)
    if inspect.isclass(op) and issubclass(op, Op) and not inspect.isabstract(op)
}
CALLED = [s for s in SAMPLES if not s.op.view]
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)


def test_every_op_is_sampled() -> None:
    assert {type(s.op) for s in SAMPLES} == CONCRETE


def test_overlays_are_sampled_on_every_axis() -> None:
    seen = {(type(s.op), s.overlay.axis) for s in SAMPLES if s.overlay is not None}
    assert seen == {
        (ops.Conv, 0),
        (ops.Conv, 3),
        (ops.ConvInputGrad, 0),
        (ops.ConvInputGrad, 3),
        (ops.Depthwise, 2),
        (ops.DepthwiseInputGrad, 2),
        (ops.GroupedConv, 0),
        (ops.GroupedInputGrad, 0),
    }


def test_every_rule_is_sampled_fused_with_every_weight_gradient() -> None:
    seen = {
        (type(s.op.grad), type(s.op.update)) for s in SAMPLES if isinstance(s.op, ops.RowUpdate)
    }
    grads = (
        ops.ConvWeightGrad,
        ops.DepthwiseWeightGrad,
        ops.GroupedWeightGrad,
        ops.DenseWeightGrad,
    )
    rules = (ops.Sgd, ops.Momentum, ops.RowRms, ops.Adam, ops.Accumulate)
    assert seen == {(g, u) for g in grads for u in rules}


# ---- types ----


def results(sample: Sample, want: dict[str, Value]) -> list[tuple[Value, TensorType]]:
    """Pair what a reference made with the types it should have."""
    node = sample.node()
    if node.op.writes:
        written = [node.inputs[i] for i in node.op.writes]
        return [(want[x.name], x.type) for x in written]
    return [(want[node.name], node.type)]


def check_type(value: Value, kind: TensorType) -> None:
    """Assert that a value is what its type says."""
    if isinstance(kind.quant, BlockExponent):
        assert isinstance(value, Block)
        assert bit_length(value.mantissa.astype(np.int64)) <= kind.quant.bits
        value = value.mantissa
    assert isinstance(value, np.ndarray)
    assert (value.shape, value.dtype) == (kind.shape, kind.dtype.numpy)


@each_sample
def test_the_reference_has_the_inferred_type(sample: Sample) -> None:
    for case in cases(sample):
        for value, kind in results(sample, case.want):
            check_type(value, kind)


@each_sample
def test_mantissas_use_the_bits_they_have(sample: Sample) -> None:
    """An op that chooses the exponent leaves no bit unused, and gives all zeros the lowest one."""
    if not hasattr(sample.op, "bits"):
        return
    for case in cases(sample):
        y = case.want[f"{sample.name}_y"]
        assert isinstance(y, Block)
        if y.mantissa.any():
            assert bit_length(y.mantissa.astype(np.int64)) in {sample.op.bits, sample.op.bits - 1}
            assert bit_length(y.mantissa.astype(np.int64)) == sample.op.bits or isinstance(
                sample.op, ops.ToBlock
            )
        else:
            assert y.exponent == ZERO_EXPONENT


@each_sample
def test_inputs_of_another_shape_are_a_shape_error_or_fit(sample: Sample) -> None:
    for i, t in enumerate(sample.types):
        shapes = [(*t.shape, 2), (*t.shape[:-1], t.shape[-1] + 1), t.shape[1:]]
        for shape in shapes:
            types = [*sample.types[:i], replace(t, shape=shape), *sample.types[i + 1 :]]
            try:
                out = sample.op.infer(*types)
            except ShapeError as e:
                assert str(e)  # noqa: PT017 either outcome is right, a nameless complaint is not
            else:
                assert isinstance(out, TensorType)


@each_sample
def test_multiply_accumulates_are_counted(sample: Sample) -> None:
    node = sample.node()
    macs = node.op.macs(node)
    assert isinstance(macs, int)
    match sample.op:
        case (
            ops.Conv()
            | ops.ConvInputGrad()
            | ops.Depthwise()
            | ops.DepthwiseInputGrad()
            | ops.GroupedConv()
            | ops.GroupedInputGrad()
        ):
            w = node.inputs[1].type
            forward = isinstance(sample.op, ops.Conv | ops.Depthwise | ops.GroupedConv)
            maps = node.type if forward else sample.types[0]
            pixels = maps.shape[0] * maps.shape[1]
            assert macs == pixels * w.size
        case ops.ConvWeightGrad() | ops.DepthwiseWeightGrad() | ops.GroupedWeightGrad():
            dy = sample.types[1]
            assert macs == dy.shape[0] * dy.shape[1] * node.type.size
        case _:
            assert macs >= 0


# ---- meaning: pairing the result with any v gives the same number in float64 ----


def clip_keeps(mask: Value, shape: tuple[int, ...]) -> Array:
    """Unpack a clip mask bit by bit."""
    count = int(np.prod(shape))
    keep = [int(codes(mask)[i // 8]) >> (i % 8) & 1 for i in range(count)]
    return np.array(keep).reshape(shape)


def taken(op: ops.Take | ops.TakeGrad, x: Array) -> Array:
    """Take slices one by one."""
    rows = [np.moveaxis(x, op.axis, 0)[i] for i in op.index]
    return np.moveaxis(np.array(rows), 0, op.axis)


Pairing = Callable[[Any, tuple[Array, ...], tuple[Value, ...], Array], Any]

#: (op, inputs as reals, inputs as stored, v) -> what <y, v> must be, by a definition over the reals
PAIRINGS: dict[type[Op], Pairing] = {
    ops.ConvInputGrad: lambda op, xs, raw, v: (xs[0] * conv64(v, codes(raw[1]), op.window)).sum(),
    ops.DepthwiseInputGrad: lambda op, xs, raw, v: (
        xs[0] * conv64(v, codes(raw[1]), op.window, depthwise=True)
    ).sum(),
    ops.ConvWeightGrad: lambda op, xs, raw, v: (xs[1] * conv64(xs[0], v, op.window)).sum(),
    ops.DepthwiseWeightGrad: lambda op, xs, raw, v: (
        xs[1] * conv64(xs[0], v, op.window, depthwise=True)
    ).sum(),
    ops.GroupedInputGrad: lambda op, xs, raw, v: (
        xs[0] * grouped64(v, codes(raw[1]), op.window, op.groups)
    ).sum(),
    ops.GroupedWeightGrad: lambda op, xs, raw, v: sum(
        (
            xs[1][:, :, o]
            * conv64(xs[0][:, :, first:][:, :, : v.shape[3]], v[[o]], op.window)[:, :, 0]
        ).sum()
        for o, first in enumerate(op.reads)
    ),
    ops.DenseInputGrad: lambda op, xs, raw, v: xs[0] @ (xs[1] @ v),
    ops.DenseWeightGrad: lambda op, xs, raw, v: xs[1] @ (v @ xs[0]),
    ops.BlockAdd: lambda op, xs, raw, v: (xs[0] * v).sum() + (xs[1] * v).sum(),
    ops.ScaleChannels: lambda op, xs, raw, v: (xs[0] * v * np.array(op.factors)).sum(),
    ops.ClipGrad: lambda op, xs, raw, v: (xs[0] * clip_keeps(raw[1], v.shape) * v).sum(),
    ops.Broadcast: lambda op, xs, raw, v: (xs[0][0, 0] * v.sum(axis=(0, 1))).sum(),
    ops.SumPixels: lambda op, xs, raw, v: sum((pixel * v).sum() for row in xs[0] for pixel in row),
    ops.ToBlock: lambda op, xs, raw, v: (xs[0] * v.ravel()).sum(),
    ops.Take: lambda op, xs, raw, v: (taken(op, xs[0]) * v).sum(),
    ops.TakeGrad: lambda op, xs, raw, v: (xs[0] * taken(op, v)).sum(),
    ops.MaxPoolGrad: lambda op, xs, raw, v: sum(
        (xs[0][oy, ox] * v[pixel] * (codes(raw[1])[oy, ox] == tap)).sum()
        for oy, ox, seen in places(v.shape, op.pool.size, op.pool.window)
        for tap, pixel in seen.items()
    ),
    ops.MeanPoolGrad: lambda op, xs, raw, v: sum(
        (xs[0][oy, ox] * np.mean([v[pixel] for pixel in seen.values()], axis=0)).sum()
        for oy, ox, seen in places(v.shape, op.size, op.window)
    ),
    ops.TableGrad: lambda op, xs, raw, v: (
        xs[0] * np.array(op.slopes)[codes(raw[1]).astype(int) + 128] * v
    ).sum(),
    ops.ProductGrad: lambda op, xs, raw, v: (xs[0] * v * (codes(raw[1]) + 128.0)).sum(),
    ops.ProductSumGrad: lambda op, xs, raw, v: (xs[0] * v * (codes(raw[1]) + 3.0)).sum(),
    ops.UpsampleGrad: lambda op, xs, raw, v: (xs[0] * np.kron(v, np.ones((*op.size, 1)))).sum(),
}


def codes(value: Value) -> Array:
    """Narrow a value to stored integers."""
    assert isinstance(value, np.ndarray)
    return value


def probes(shape: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """Single elements, which show a wrong place, and a dense pattern, which shows any."""
    out = []
    for at in rng.choice(int(np.prod(shape)), 8):
        v = np.zeros(shape)
        v.flat[at] = 1.0
        out.append(v)
    return [*out, rng.choice([-1.0, 1.0], shape)]


def check_meaning(sample: Sample, case: Case) -> None:
    """Assert that a backward op computes what it is the adjoint of, up to its mantissas."""
    node = sample.node()
    feeds = {x.name: case.feeds.get(x.name) for x in node.inputs}
    if sample.overlay is not None:
        graph = sample.graph()
        view = graph.outputs[0].inputs[1]
        shown = view.op.reference(view, *(case.feeds[x.name] for x in view.inputs))
        assert not isinstance(shown, tuple)
        feeds[view.name] = shown
    raw = tuple(v for v in (feeds[x.name] for x in node.inputs) if v is not None)
    xs = tuple(real(v, x.type) for v, x in zip(raw, node.inputs, strict=True))
    y = real(case.want[node.name], node.type)
    bits = node.type.quant.bits if isinstance(node.type.quant, BlockExponent) else 20
    for v in probes(node.type.shape, np.random.default_rng(0)):
        want = PAIRINGS[type(node.op)](node.op, xs, raw, v)
        tolerance = 2.0 ** (2 - bits) * np.abs(y).max() * np.abs(v).sum() + 2.0**-95
        np.testing.assert_allclose((y * v).sum(), want, rtol=1e-6, atol=tolerance)


PAIRED = [s for s in SAMPLES if type(s.op) in PAIRINGS]


@pytest.mark.parametrize("sample", PAIRED, ids=lambda s: s.name)
def test_a_gradient_op_is_the_adjoint_of_its_float64_formula(sample: Sample) -> None:
    for case in cases(sample):
        check_meaning(sample, case)


# ---- gradients: <dy, J v> by calculus equals <vjp(dy), v> ----


def differentiable(sample: Sample) -> bool:
    """Say whether an op has a gradient."""
    b = Builder()
    xs = [b.input(f"x{i}", t) for i, t in enumerate(sample.types)]
    y = b(sample.op, *xs)
    try:
        sample.op.vjp(b, y, b.input("dy", y.type))
    except NotDifferentiableError:
        return False
    except (ShapeError, TypeError):  # a gradient has another type than what it is of
        return True
    return True


def test_ops_with_a_gradient_are_those_with_a_formula() -> None:
    assert {type(s.op) for s in SAMPLES if differentiable(s)} == FORMULAS.keys()


#: Ops with neither a formula nor an adjoint, and what stands for it.
OTHERWISE: dict[type[Op], str] = {
    ops.Stream: "its layers one after the other (test_stream.py)",
    ops.ArgMax: "the gradient of MaxPool against finite differences",
    ops.ClipMask: "test_the_gradient_of_a_clamp_is_zero_at_both_ends",
    ops.CosineInputGrad: "the gradient of Cosine against finite differences",
    ops.CosinePrototypeGrad: "the gradient of Cosine against finite differences",
    ops.CrossEntropyGrad: "the gradient of CrossEntropy against finite differences",
    ops.Lookup: "the gradient of Enrol against finite differences",
    ops.FisherSum: "equation 2 by hand (test_strategies.py)",
    ops.RowUpdate: "an update of a whole gradient (the passes that keep meaning, test_passes.py)",
    ops.Accumulate: "gradients against float64 (test_gradients.py)",
    **dict.fromkeys((ops.Sgd, ops.RowRms), "a rule, no function: its reference is it"),
    **dict.fromkeys((ops.Momentum, ops.Adam), "torch's (test_optimizers.py)"),
    ops.Clear: "zeros",
    ops.Copy: "the same again",
}


def test_every_op_is_compared_with_what_it_means_over_the_reals() -> None:
    """An op of the forward pass by its formula, a gradient op by what it is the adjoint of."""
    parts = (FORMULAS.keys(), PAIRINGS.keys(), OTHERWISE.keys())
    assert set().union(*parts) == CONCRETE, "add it to FORMULAS (helpers.py) or to PAIRINGS"
    assert FORMULAS.keys() & PAIRINGS.keys() <= {ops.Take}
    assert not OTHERWISE.keys() & (FORMULAS.keys() | PAIRINGS.keys())


def check_gradient(sample: Sample, case: Case, kind: str) -> None:
    """Assert that vjp agrees with central differences of the float64 formula, clamps as masks."""
    rng = np.random.default_rng(5)
    b = Builder()
    graph = sample.graph()
    y = graph.outputs[0]
    b.nodes.extend(graph.nodes)
    if y.type.dtype is DType.F32:
        dy_type = y.type
    elif isinstance(sample.op, ops.Overlay):
        dy_type = TensorType(y.type.shape, DType.I32, BlockExponent(31))
    else:
        dy_type = gradient(*y.type.shape)
    dy = b.input("dy", dy_type)
    grads = sample.op.vjp(b, y, dy)
    assert len(grads) == len(y.inputs)
    known = [g for g in grads if g is not None and g is not dy]
    b.nodes[:] = [n for n in b.nodes if n not in known] + known
    feeds = {**case.feeds, "dy": draw(dy_type, kind, rng, 0)}
    env = interpret(b.graph(y, *known, *(x for x in y.inputs)), feeds)
    xs = tuple(real(env[x.name], x.type) for x in y.inputs)
    labelled = isinstance(sample.op, ops.CrossEntropy | ops.Enrol)
    label = int(codes(env[y.inputs[-1].name])[0]) if labelled else 0
    mask = 1.0 if isinstance(sample.op, UNCLAMPED) else passed(sample.op, env[y.name], y.type)
    seen = real(feeds["dy"], dy_type) * (1.0 if isinstance(sample.op, ops.Overlay) else mask)
    eps = 1e-6 if isinstance(sample.op, CURVED) else 1.0
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        value = feeds["dy"] if grad is dy else env[grad.name]
        got = real(value, grad.type)
        assert got.shape == xs[i].shape
        for v in probes(xs[i].shape, rng):
            ends = [
                formula(sample.op, (*xs[:i], xs[i] + s * eps * v, *xs[i + 1 :]), label)
                for s in (1, -1)
            ]
            assert ends[0] is not None
            assert ends[1] is not None
            slope = (ends[0] - ends[1]) / (2 * eps)
            exact = float((seen * slope).sum())
            rounding = 2.0**-13 if isinstance(value, Block) else 1e-6
            tolerance = rounding * (
                np.abs(seen).max() * np.abs(slope).sum() + np.abs(got).max() * np.abs(v).sum()
            )
            np.testing.assert_allclose((got * v).sum(), exact, rtol=0, atol=tolerance + 2.0**-95)


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if type(s.op) in FORMULAS], ids=lambda s: s.name
)
def test_the_gradient_agrees_with_finite_differences_in_float64(sample: Sample) -> None:
    kinds = ("random",) if isinstance(sample.op, CURVED) else ("random", "extremes", "far", "zeros")
    for kind, case in zip(kinds, cases(sample), strict=False):
        check_gradient(sample, case, kind)


def test_the_gradient_of_a_clamp_is_zero_at_both_ends() -> None:
    """Codes -128 and 127 may have been clamped: nothing flows back through them."""
    sample = next(s for s in SAMPLES if isinstance(s.op, ops.ClipMask))
    node = sample.node()
    y = np.zeros(node.inputs[0].type.shape, np.int8)
    y.flat[:4] = -128, 127, -127, 126
    mask = node.op.reference(node, y)
    assert isinstance(mask, np.ndarray)
    assert [int(mask[0]) >> i & 1 for i in range(4)] == [0, 0, 1, 1]


# ---- kernels ----


def keeps(sample: Sample) -> list[tuple[int, ...]]:
    """Which inputs to keep alive: an op runs in place over each that it may, and over none."""
    overwrites = sample.op.overwrites
    return [overwrites[:i] for i in range(len(overwrites) + 1)]


def entry_name(sample: Sample, keep: tuple[int, ...]) -> str:
    """Return the name of the C function of a sample."""
    return sample.name + "".join(f"_keep{i}" for i in keep)


@functools.cache
def program() -> Program:
    """Every sample as an entry point of one program: one file to compile."""
    return link({entry_name(s, k): s.graph(k) for s in CALLED for k in keeps(s)})


@functools.cache
def built(compiler: Compiler) -> HostProgram:
    """Compile that program."""
    return build_host(program(), compiler)


def check_kernel(host: Runner, sample: Sample, keep: tuple[int, ...], case: Case) -> None:
    """Assert that C makes of a case what the reference makes of it, to the bit."""
    got = call(host, entry_name(sample, keep), case.feeds)
    assert_same(got, case.want, sample.name)
    for i in keep:
        name = f"{sample.name}_x{i}"
        assert same_bits(got[name], case.feeds[name]), f"{sample.name} overwrote its input {i}"


def failures(host: Runner, samples: list[Sample]) -> Iterator[str]:
    """Yield what is wrong with the kernels of `samples`."""
    for sample in samples:
        for keep in keeps(sample):
            for case in (*cases(sample), *hostile_cases(sample)):
                try:
                    check_kernel(host, sample, keep, case)
                except AssertionError as e:
                    yield str(e).splitlines()[0]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_kernels_equal_their_references_to_the_bit(compiler: Compiler) -> None:
    wrong = list(failures(built(compiler), CALLED))
    assert not wrong, f"{len(wrong)} differ, of them:\n" + "\n".join(wrong[:20])


@needs_gcc
def test_kernels_write_their_output_and_scratch_and_nothing_else() -> None:
    host = built(gcc("-O2"))
    for sample in CALLED:
        entry = host.program.entries[entry_name(sample, ())]
        nodes = {n.name: n for n in entry.graph.nodes}
        (node,) = (n for n in entry.graph.nodes if not isinstance(n.op, Leaf) and not n.op.view)
        host._arena[:] = np.random.default_rng(1).integers(0, 256, host._arena.size, np.uint8)
        feeds = cases(sample)[0].feeds
        offsets = {s.name: s.offset for s in host.program.state}
        for name, value in feeds.items():
            in_state = name in offsets
            memory = host._state if in_state else host._arena
            put(memory, offsets[name] if in_state else entry.offset(nodes[name]), value)
        arena, state = host._arena.copy(), host._state.copy()
        host.run(entry.name)
        allowed = np.zeros(arena.size, np.bool_)
        if node in entry.storage.tensor:
            allowed[entry.offset(node) :][: node.type.nbytes] = True
        if node in entry.storage.scratch:
            name = entry.storage.scratch[node]
            size = next(b.size for b in entry.storage.buffers if b.name == name)
            allowed[entry.plan.offsets[name] :][:size] = True
        assert not ((arena != host._arena) & ~allowed).any(), f"{sample.name} wrote into the arena"
        allowed = np.zeros(state.size, np.bool_)
        for x in entry.graph.written():
            allowed[offsets[x.name] :][: x.type.nbytes] = True
        assert not ((state != host._state) & ~allowed).any(), f"{sample.name} wrote into the state"


def test_a_graph_of_every_sample_prints() -> None:
    """`str(graph)` is the debugging tool: it names the op and the types."""
    for sample in SAMPLES:
        graph: Graph = sample.graph()
        assert type(sample.op).__name__ in str(graph)
        assert str(graph.outputs[0].type) in str(graph)


def test_every_kernel_that_reads_what_was_kept_is_given_anything() -> None:
    given = {type(s.op) for s in CALLED if hostile_cases(s)}
    reads = {type(s.op) for s in CALLED if s.op.writes} - {ops.Clear}
    heads = {ops.Dense, ops.DenseInputGrad, ops.Cosine, ops.CosineInputGrad, ops.Lookup}
    assert given == reads | heads | {
        ops.CosinePrototypeGrad,
        ops.Conv,
        ops.Depthwise,
        ops.GroupedConv,
    }


def test_nothing_that_is_kept_becomes_a_nan() -> None:
    for sample in CALLED:
        if isinstance(sample.op, ops.Enrol):  # the rows of other classes are left alone
            continue
        for case in hostile_cases(sample):
            for value in case.want.values():
                if isinstance(value, np.ndarray) and value.dtype == np.float32:
                    assert not np.isnan(value).any(), sample.name


@needs_gcc
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_bias_at_its_limit_stays_there(sign: int) -> None:
    """2^30 and a step of 2^30: their sum does not fit into int32."""
    b = Builder()
    param = b.param("bias", np.zeros(2, np.int32), Affine((0.5, 0.5), axis=0, unit=0.5))
    grad, lr, clock = (
        b.input("grad", TensorType((2,), DType.I32, BlockExponent(31))),
        b.input("lr", TensorType((1,), DType.F32)),
        b.input("clock", TensorType((2,), DType.I32)),
    )
    graph = b.graph(b(ops.Sgd(0), param, grad, lr, clock))
    limit = sign << 30
    feeds: dict[str, Value] = {
        "bias": np.array([limit, -limit], np.int32),
        "grad": Block(np.array([-limit, -limit], np.int32), 0),
        "lr": np.ones(1, np.float32),
        "clock": np.zeros(2, np.int32),
    }
    host = build_host(link({"run": graph}), gcc("-O2"))
    for got in (interpret(graph, feeds), call(host, "run", feeds)):
        assert np.asarray(got["bias"]).tolist() == [limit, 0]


@needs_gcc
@pytest.mark.parametrize("step", [-1, -2, (1 << 31) - 1, -(1 << 31)])
@pytest.mark.parametrize(
    "rule", [ops.Momentum(0), ops.RowRms(0), ops.Adam(0)], ids=["momentum", "rowrms", "adam"]
)
def test_every_step_counter_ends(rule: ops.Update, step: int) -> None:
    """Erased flash reads -1, and a damaged counter anything."""
    s = next(
        s
        for s in CALLED
        if isinstance(s.op, type(rule)) and s.types[0].dtype is DType.I8 and s.types[1].quant
    )
    feeds = dict(cases(s)[0].feeds)
    clock = next(name for name, v in feeds.items() if name.endswith(f"x{len(s.types) - 1}"))
    feeds[clock] = np.array([7, step], np.int32)
    want = interpret(s.graph(), feeds)
    assert_same(call(built(gcc("-O2")), entry_name(s, ()), feeds), want)
    for value in want.values():
        assert np.isfinite(np.asarray(value)).all()
