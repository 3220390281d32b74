"""Makes layers of an exported program, call by call; all that cannot be is named at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from kilograd import names
from kilograd.errors import InputError
from kilograd.frontend.torch_export import arithmetic, codes, maps, moves
from kilograd.frontend.torch_export.building import At, Building, Translation
from kilograd.frontend.torch_export.program import Call, Other, Program
from kilograd.layers.network import (
    CurveKind,
    Gather,
    Layout,
    Network,
    Reshape,
    Slice,
    Source,
    Transpose,
    Value,
)
from kilograd.layers.unsupported import Unsupported, UnsupportedError, refuse

_TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("conv1d", "conv2d"), maps.convolution),
    "linear": maps.linear,
    "batch_norm": maps.batch_norm,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices"), maps.max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), maps.mean_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), maps.adaptive_mean),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), maps.adaptive_max),
    "mean": maps.mean,
    "sum": maps.total,
    "amax": maps.largest,
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), maps.upsample),
    "relu": arithmetic.clamp_to(0.0, math.inf),
    "relu6": arithmetic.clamp_to(0.0, 6.0),
    "hardtanh": arithmetic.hardtanh,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "clip"), arithmetic.clamp),
    **{
        name: arithmetic.curve(kind)
        for name, kind in {
            "sigmoid": CurveKind.SIGMOID,
            "tanh": CurveKind.TANH,
            "silu": CurveKind.SILU,
            "hardsigmoid": CurveKind.HARD_SIGMOID,
            "hardswish": CurveKind.HARD_SWISH,
            "mish": CurveKind.MISH,
            "abs": CurveKind.ABS,
            "exp": CurveKind.EXP,
            "sqrt": CurveKind.SQRT,
            "neg": CurveKind.NEG,
        }.items()
    },
    "gelu": arithmetic.gelu,
    "leaky_relu": arithmetic.leaky,
    "prelu": arithmetic.prelu,
    "elu": arithmetic.elu,
    "softplus": arithmetic.softplus,
    **dict.fromkeys(("softmax", "log_softmax"), arithmetic.softmax),
    "square": arithmetic.square,
    "pow": arithmetic.power,
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "rsub": arithmetic.subtract_from,
    "mul": arithmetic.multiply,
    "div": arithmetic.divide,
    **dict.fromkeys(
        ("alias", "clone", "contiguous", "detach", "lift_fresh_copy", "requires_grad"), moves.same
    ),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), moves.dropout),
    **dict.fromkeys(("to", "_to_copy", "type_as"), moves.converted),
    **dict.fromkeys(
        ("flatten", "unflatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"),
        moves.reshape,
    ),
    **dict.fromkeys(("expand", "expand_as"), moves.expand),
    "permute": moves.permute,
    **dict.fromkeys(("transpose", "swapaxes"), moves.transpose),
    **dict.fromkeys(("cat", "concat"), moves.concat),
    "stack": moves.stack,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unsafe_chunk"), moves.parts),
    "unbind": moves.unbind,
    "slice": moves.sliced,
    "narrow": moves.narrow,
    "select": moves.select,
    "index_select": moves.index_select,
    "index": moves.index,
    "flip": moves.flip,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), moves.channel_shuffle),
    **dict.fromkeys(("pad", "constant_pad_nd"), moves.pad),
    "quantized_decomposed.quantize_per_tensor.default": codes.quantize,
    "quantized_decomposed.dequantize_per_tensor.default": codes.dequantize,
    "quantized_decomposed.dequantize_per_channel.default": codes.dequantize_channels,
}
"""By the operator's name without overload."""

_NOTHING = frozenset({"sym_size", "_assert_tensor_metadata", "_assert_scalar", "_assert_async"})
"""Calls that make no tensor: lengths of the batch, and checks of what is given."""

_VIEWS = Reshape | Transpose | Slice | Gather
"""What layers do that may share memory in PyTorch."""

_ADVICE = {
    ("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"): (
        "it normalises each image while it runs; use BatchNorm2d, which folds into convolutions"
    ),
    ("rms_norm", "linalg_vector_norm", "norm", "var", "std", "var_mean"): (
        "it normalises each image while it runs; use BatchNorm2d, which folds into convolutions"
    ),
    (
        *("scaled_dot_product_attention", "_native_multi_head_attention", "multi_head_attention"),
        *("matmul", "bmm", "baddbmm", "einsum"),
    ): "attention and products of two computed matrices are not there; use convolutions or linear",
    ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"): (
        "recurrent layers are not there; use a 1-D convolution over a window"
    ),
    ("convolution", "addmm", "mm", "_native_batch_norm_legit_no_training", "native_batch_norm"): (
        "the program was decomposed; save what torch.export.export returns, without "
        "run_decompositions()"
    ),
    ("conv_transpose1d", "conv_transpose2d"): "enlarge with nn.Upsample(mode='nearest') instead",
    ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "grid_sampler"): (
        "enlarge with nn.Upsample(mode='nearest') instead"
    ),
    ("embedding",): "give what it looks up as the input",
    ("_weight_norm", "_weight_norm_interface"): (
        "make the weight a plain parameter before the export "
        "(torch.nn.utils.parametrize.remove_parametrizations)"
    ),
    ("conv3d", "max_pool3d", "avg_pool3d"): "maps have two axes at most",
}
"""What to do instead, by operator."""
_ELSE = "it has no layer here; write it with operators that docs/import-torch.md lists"


def read_here(call: Call) -> bool:
    """Tell whether calls of this operator can be read."""
    return call.operator in _TRANSLATIONS or call.operator in _NOTHING


def translated(program: Program) -> Network:
    """Return a program as a network; raises `InputError` with all calls that cannot be layers."""
    where = program.file
    for name in (*program.inputs, *program.stored):
        names.identifier(name, where)
    outputs = [o for call in program.calls for o in call.outputs]
    names.distinct((*program.inputs, *program.stored, *outputs), where, "tensors")
    building = Building(program, _batch(program))
    building.held |= program.stored
    found: list[Unsupported] = []
    _add_inputs(building)
    sharing = _Sharing(building)
    for i, call in enumerate(program.calls):
        try:
            _translate(building, sharing, i, call)
        except UnsupportedError as e:
            found.append(_unsupported(building, call, str(e)))
    refuse(where, found)
    network = _network(building)
    refuse(where, [*_in_float(network)] if network.quantised else ())
    return network


def _network(building: Building) -> Network:
    program = building.program
    return Network(
        names.spelled(program.name, ()),
        Layout.CHANNELS_FIRST,
        tuple(building.inputs),
        tuple(_returned(building, name) for name in program.outputs),
        tuple(building.layers),
        Source("PyTorch", program.file, program.sha256),
    )


def _in_float(network: Network) -> Iterator[Unsupported]:
    """Yield the layers of a program in codes that have none, but for those at its end."""
    read = {v for x in network.layers for v in x.inputs}
    for x in network.layers:
        if x.output.quant is None and x.output in read:
            yield Unsupported(
                x.name,
                type(x.op).__name__,
                x.output.shape,
                "computes in float between codes; quantise it as well, or give the float module",
            )


def _batch(program: Program) -> int | None:
    """Return the length of the first axis of the first input; None where it is dynamic."""
    given = program.tensors.get(program.inputs[0])
    if given is None or not given.shape:
        raise InputError(
            f"{program.file}: input {program.inputs[0]}: has no axis for the batch; export with "
            f"an example [1, c, h, w]"
        )
    return given.shape[0]


def _add_inputs(building: Building) -> None:
    for name in building.program.inputs:
        try:
            building.held[name] = value = Value(name, building.shape(name))
        except UnsupportedError as e:
            raise InputError(f"{building.program.file}: input {name}: {e}") from e
        building.inputs.append(value)


def _returned(building: Building, name: str) -> Value:
    held = building.held.get(name)
    if not isinstance(held, Value):
        raise InputError(
            f"{building.program.file}: output {name}: is a constant; return what is computed"
        )
    return held


def _translate(building: Building, sharing: _Sharing, index: int, call: Call) -> None:
    """Add the layers of a call."""
    if call.operator in _NOTHING or _counts(building.program, call):
        return
    before = len(building.layers)
    translation = _TRANSLATIONS.get(call.operator)
    if translation is None:
        raise UnsupportedError(_advice(call))
    if building.lost.intersection(call.refs()):
        building.lost |= set(call.outputs)  # what it reads was refused: no more is known
        return
    if not call.outputs:
        raise UnsupportedError("it makes no tensor; save the program again")
    made = translation(At(call, building, index))
    held = made if isinstance(made, list) else [made]
    building.held |= dict(zip(call.outputs, held, strict=False))
    if all(isinstance(x.op, _VIEWS) for x in building.layers[before:]):
        sharing.share(call)
    if call.in_place:
        written = sharing.written(call, index)
        building.held[written] = held[0]
        sharing.share(call)


class _Sharing:
    """Which names of a program may stand for the same memory, and until when they are read."""

    def __init__(self, building: Building) -> None:
        self._building = building
        self._memory: dict[str, set[str]] = {}

    def share(self, call: Call) -> None:
        """Note that a call's results may lie in the memory of what it reads."""
        self._join([*call.refs(), *call.outputs])

    def _join(self, together: Iterable[str]) -> None:
        whole: set[str] = set()
        for name in together:
            whole |= self._memory.get(name, {name})
        for name in whole:
            self._memory[name] = whole

    def written(self, call: Call, index: int) -> str:
        """Return the name that an in-place call overwrites.

        Raises `UnsupportedError` where another name for the same memory is read afterwards.
        """
        name = call.ref("self" if "self" in call.arguments else "input").name
        others = self._memory.get(name, {name}) - {name, *call.outputs}
        if any(self._building.last_read(n) > index for n in others):
            raise UnsupportedError(
                "it overwrites what is read again under another name; not in place"
            )
        return name


def _counts(program: Program, call: Call) -> bool:
    """Tell whether a call counts batches, as batch norm does in training."""
    kinds = {program.tensors[n].dtype for n in call.outputs if n in program.tensors}
    return call.target == "aten.add_.Tensor" and kinds == {"int64"}


def _advice(call: Call) -> str:
    library = call.target.partition(".")[0]
    if library == "higher_order":
        inside = {
            Call("", o, {}, (), "", "").operator
            for x in call.arguments.values()
            if isinstance(x, Other)
            for o in x.operators
        }
        also = ", ".join(sorted(inside - _TRANSLATIONS.keys() - _NOTHING))
        return (
            "control flow and parts with settings of their own (autocast) are not read; export "
            f"without{f'; inside, {also} cannot be read either' * bool(also)}"
        )
    if library in {"quantized_decomposed", "torchao", "quantized"}:
        return "give the float module: kilograd quantises; of PT2E's programs int8 ones are read"
    if library != "aten":
        return f"it is of the library {library!r}; write it with PyTorch's own operators"
    for operators, advice in _ADVICE.items():
        if call.operator in operators:
            return advice
    return _ELSE


def _unsupported(building: Building, call: Call, advice: str) -> Unsupported:
    """Say what is wrong with a call, and let those after it be looked at as if it were right."""
    shape = None
    for name in call.outputs:
        try:
            building.held[name] = Value(name, shape := building.shape(name))
        except UnsupportedError:
            building.lost.add(name)
    place = ".".join(x for x in (call.path, call.name) if x)
    return Unsupported(place, call.operator, shape, advice)
