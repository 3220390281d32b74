"""Networks of ONNX files, in floats or with QuantizeLinear and DequantizeLinear in int8.

Every operator is read in turn: what depends on no input is computed (`constants`), operators of one
element are told by what they do (`functions`), the others become layers (`maps`, `moves`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend.onnx import elements, maps, moves
from kilograd.frontend.onnx.constants import Given, fold, shape_of
from kilograd.frontend.onnx.draft import (
    Codes,
    Draft,
    Entry,
    Flow,
    Known,
    Unknown,
    UnreachedError,
    reals,
)
from kilograd.frontend.onnx.file import Declared, Operator, Program, Subgraph, read_program
from kilograd.ir import Affine, Array
from kilograd.layers.network import (
    ChannelScale,
    Convolution,
    Gather,
    Layer,
    Layout,
    LogSoftmax,
    Mean,
    Network,
    Pool,
    Reshape,
    Slice,
    Softmax,
    Source,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.unsupported import Unsupported, UnsupportedError, refuse
from kilograd.names import spelled

_FLOATS, _CODES = {1, 10, 11}, {2, 3}  # TensorProto.DataType
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}
_WHOLE = {"int8", "uint8", "int32"}
_SAME = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}


def read_onnx(path: Path) -> Network:
    """Return the network of an ONNX file, channels first, without the axis of the batch.

    Raises `InputError` for a file that is damaged or hostile, or is no network of fixed shapes, and
    for one with operators that are not supported: all of them in one message.
    """
    program = read_program(path)
    return read_network(program, path).network


@dataclass(frozen=True)
class Reading:
    """A network, and what its values are in the file, by name.

    `tensors`: which tensor each is, or was before it moved.  `fed`: the input that each input is.
    `operators`: which operator each layer is, or the last one where it is several.
    """

    network: Network
    tensors: dict[str, str]
    fed: dict[str, str]
    operators: dict[str, Operator]


def read_network(program: Program, path: Path) -> Reading:
    """Return the network of what stands in a file."""
    draft = Draft(program, str(path))
    for x in program.inputs:
        draft.entries[x.name] = _input(draft, x)
    draft.entries |= {name: Known(x, name) for name, x in program.constants.items()}
    folded = 0
    for node in program.operators:
        made = _made(draft, node)
        folded += sum(x.values.nbytes for x in made if isinstance(x, Known))
        if folded > 2 * limits.TENSOR_BYTES:
            raise InputError(f"{path}: its constants become larger than 2^29 bytes; fold them")
        draft.entries |= dict(zip(node.outputs, made, strict=True))
    return _finished(draft, path)


def _input(draft: Draft, x: Declared) -> Entry:
    """Return what an input of the file is: its first axis may be that of the batch."""
    where = f"{draft.where}: input {x.name[:80]!r}"
    shape = x.shape
    if len(shape) > 1:
        if isinstance(shape[0], int) and shape[0] != 1:
            raise InputError(
                f"{where}: takes {list(shape)}, a batch of {shape[0]}; export it with one of 1"
            )
        shape = shape[1:]
    if not shape:
        raise InputError(f"{where}: has no shape; export it with fixed shapes")
    if texts := [d for d in shape if isinstance(d, str)]:
        raise InputError(
            f"{where}: has a dimension without a number ({', '.join(texts)[:80]}); export it with "
            f"fixed shapes, or set them with onnxruntime.tools.make_dynamic_shape_fixed"
        )
    sizes = tuple(map(int, shape))
    if x.dtype in _CODES:
        return Codes(sizes, batch=len(x.shape) > 1, unsigned=x.dtype == 2)
    if x.dtype not in _FLOATS:
        draft.problems.append(
            Unsupported(x.name, "input", sizes, "is of another type than float32, int8 and uint8")
        )
        return Unknown()
    return Flow(draft.given(x.name, sizes), batch=len(x.shape) > 1)


def _made(draft: Draft, node: Operator) -> list[Entry]:
    """Return what an operator makes, one entry for each output."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused where it counts
            _require_own(node)
            made = _operator(draft, node)
            _require_whole(draft, node, made)
    except UnreachedError:
        return [Unknown() for _ in node.outputs]
    except UnsupportedError as e:
        draft.refuse(node, str(e))
        return [_placeholder(draft, x) for x in node.outputs]
    except (ArithmeticError, IndexError, TypeError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{node.where}: {node.kind} cannot be as it is there ({e})") from e
    return [*made, *(Unknown() for _ in node.outputs[len(made) :])]


def _require_whole(draft: Draft, node: Operator, made: list[Entry]) -> None:
    if any(draft.readers[x] for x in node.outputs[len(made) :]):
        raise UnsupportedError(f"only its first {len(made)} outputs are computed")


def _placeholder(draft: Draft, tensor: str) -> Entry:
    """Return what lets reading go on behind an operator that is not supported."""
    shape = draft.program.shapes.get(tensor)
    if not shape or shape[0] != 1 or len(shape) < 2:
        return Unknown()
    return Flow(draft.value(tensor, shape[1:]), batch=True)


def _require_own(node: Operator) -> None:
    """Raise `UnsupportedError` where an operator is none that is read, whatever it reads."""
    if any(isinstance(x, Subgraph) for x in node.attributes.values()):
        raise UnsupportedError(
            "control flow is not compiled; export the network without conditions and loops"
        )
    if node.domain not in {"", "com.microsoft"} or (node.domain and node.kind not in _QUANTISERS):
        raise UnsupportedError(
            "is no operator of ONNX itself; export for ONNX alone, before any optimiser"
        )
    if node.kind in _ADVICE:
        raise UnsupportedError(_ADVICE[node.kind])


def _operator(draft: Draft, node: Operator) -> list[Entry]:
    entries = [draft.entry(node, i) for i in range(len(node.inputs))]
    match node.kind:
        case "QuantizeLinear":
            return [_quantise(draft, node)]
        case "DequantizeLinear":
            return [_dequantise(draft, node)]
        case "Shape" | "Size" if isinstance(entries[0], Flow):
            return [Known(_shape(node, entries[0]))]
    if all(x is None or isinstance(x, Known) for x in entries):
        xs = [reals(x) if isinstance(x, Known) else None for x in entries]
        if node.kind in _SAME and isinstance(first := entries[0], Known) and first.quant:
            return [_viewed(node, xs, first, first.quant)]
        if (arrays := fold(node, xs)) is not None:
            return [Known(x, _origin(node, entries)) for x in arrays]
    for read in (maps.read, elements.read, moves.read):
        if (made := read(draft, node)) is not None:
            return made
    raise UnsupportedError("no layer does this; docs/import-onnx.md lists what is read")


def _shape(node: Operator, x: Flow) -> Array:
    return shape_of(node, x.shape) if node.kind == "Shape" else np.array(np.prod(x.shape))


def _viewed(node: Operator, xs: Given, known: Known, quant: Affine) -> Known:
    """Return codes in another shape or order, as codes."""
    (values,) = fold(node, [known.values, *xs[1:]]) or ()
    if quant.axis is not None and node.kind == "Transpose":
        perm = node.integers("perm", range(known.values.ndim)[::-1])
        quant = replace(quant, axis=perm.index(quant.axis))
    elif quant.axis is not None and values.shape != known.values.shape:
        raise UnsupportedError("gives codes with a scale for each channel another shape")
    return Known(values, known.origin, quant)


def _origin(node: Operator, entries: list[Entry | None]) -> str:
    """Return the initialiser that a constant is, where it only has another shape or order."""
    first = entries[0] if entries else None
    plain = isinstance(first, Known) and first.quant is None and node.kind in _SAME
    return first.origin if isinstance(first, Known) and plain else ""


# -- codes -----------------------------------------------------------------------------------------


def _quantise(draft: Draft, node: Operator) -> Entry:
    found = draft.entry(node, 0)
    like = draft.known(node, 2)
    asked = node.integer("output_dtype")
    if asked not in {0, *_CODES}:
        raise UnsupportedError("makes other codes than int8 and uint8; quantise to int8")
    unsigned = like.values.dtype == np.uint8 if like else asked != 3
    quant = _affine(draft, node, unsigned=unsigned)
    if isinstance(found, Known):
        along = [-1 if a == quant.axis else 1 for a in range(found.values.ndim)]
        scale = np.array(quant.scale, np.float32)
        scale = scale.reshape(along) if quant.axis is not None else scale.reshape(())
        codes = np.rint(reals(found).astype(np.float32) / scale) + quant.zero_point
        if not np.isfinite(codes).all():
            raise InputError(f"{node.where}: quantises what is not finite; train or export anew")
        return Known(np.clip(codes, -128, 127).astype(np.int8), found.origin, quant)
    if quant.axis is not None:
        raise UnsupportedError("has a scale for each channel of data; give it one scale")
    return draft.coded(node, draft.as_flow(node, found), quant)


def _dequantise(draft: Draft, node: Operator) -> Entry:
    found = draft.entry(node, 0)
    match found:
        case Flow() if found.codes and found.value.quant is not None:
            zero = draft.known(node, 2)
            types = {False, True} if zero is None else {zero.values.dtype == np.uint8}
            if found.value.quant not in {_affine(draft, node, unsigned=u) for u in types}:
                raise UnsupportedError("has another scale or zero point than the codes it reads")
            return replace(found, codes=False)
        case Known() if found.quant is not None:
            return found
        case Known():
            return _known_codes(draft, node, found)
        case Codes():
            quant = _affine(draft, node, unsigned=found.unsigned)
            flow = Flow(draft.given(node.inputs[0], found.shape, quant), found.batch)
            draft.entries[node.inputs[0]] = replace(flow, codes=True)
            return flow
        case _:
            raise UnsupportedError("reads what are no codes")


def _known_codes(draft: Draft, node: Operator, found: Known) -> Known:
    """Return a constant that stands in the file as codes."""
    dtype = found.values.dtype
    if dtype.name not in _WHOLE:
        raise UnsupportedError(f"codes of {dtype} are not computed with; quantise to int8")
    quant = _affine(draft, node, unsigned=dtype == np.uint8)
    values = found.values
    if dtype == np.uint8:
        values = (values ^ 0x80).view(np.int8)
    if quant.axis is not None and len(quant.scale) != values.shape[quant.axis]:
        raise InputError(f"{node.where}: has {len(quant.scale)} scales for {values.shape}")
    return Known(values, found.origin, quant)


def _affine(draft: Draft, node: Operator, *, unsigned: bool) -> Affine:
    """Return scale and zero point; codes of 0 to 255 count from -128."""
    scale = draft.known(node, 1)
    zero = draft.known(node, 2)
    if scale is None:
        raise UnsupportedError("has no scale")
    if node.integer("block_size"):
        raise UnsupportedError("has scales for blocks; quantise per channel")
    if zero is not None and zero.values.dtype.name not in _WHOLE:
        raise UnsupportedError(
            f"codes of {zero.values.dtype} are not computed with; quantise to int8"
        )
    if scale.values.dtype.kind != "f":
        raise InputError(f"{node.where}: its scale is no real number; quantise it again")
    scales = scale.values.astype(np.float64).ravel()
    if not (np.isfinite(scales).all() and (scales > 0).all() and len(scales)):
        raise InputError(f"{node.where}: a scale is not above 0 and finite; quantise it again")
    zeros = np.zeros(1, np.int64) if zero is None else zero.values.astype(np.int64).ravel()
    if unsigned:
        zeros = zeros - 128
    if (zeros != zeros[:1]).any() or not len(zeros):
        raise UnsupportedError("has a zero point for each channel; quantise symmetrically")
    axis = node.integer("axis", 1) if scale.values.size > 1 else None
    if axis is not None and axis < 0:
        raise UnsupportedError("counts its axis from the end; give it from the front")
    return Affine(tuple(scales.tolist()), int(zeros[0]), axis)


# -- the whole -------------------------------------------------------------------------------------


def _finished(draft: Draft, path: Path) -> Reading:
    outputs = []
    makers = {name: node for node in draft.program.operators for name in node.outputs}
    for name in draft.program.outputs:
        found = draft.entries[name]
        if name not in makers or isinstance(found, Known | Codes):
            raise InputError(
                f"{path}: output {name[:80]!r} is nothing that is computed of an input"
            )
        with suppress(UnreachedError):  # what it depends on has been noted
            outputs.append(draft.as_flow(makers[name], found).value)
    refuse(draft.where, draft.problems)
    layers = [_coded_scale(x) for x in _needed(list(draft.layers.values()), outputs)]
    network = Network(
        name=spelled(draft.program.name or path.stem, ()),
        layout=Layout.CHANNELS_FIRST,
        inputs=tuple(draft.inputs),
        outputs=tuple(dict.fromkeys(outputs)),
        layers=tuple(layers),
        source=Source("ONNX", path.name, draft.program.sha256),
    )
    if any(v.quant for v in network.values()):
        network = _coded_end(network)
        refuse(draft.where, _in_floats(network))
    return Reading(network, draft.tensors, draft.fed, draft.operators)


def _needed(layers: list[Layer], outputs: list[Value]) -> list[Layer]:
    """Return the layers that outputs depend on."""
    needed = set(outputs)
    kept = []
    for layer in reversed(layers):
        if layer.output in needed:
            needed.update(layer.inputs)
            kept.append(layer)
    return kept[::-1]


def _coded_scale(layer: Layer) -> Layer:
    """Return a scale of channels between codes as a convolution of one pixel, in codes.

    Each weight is 127 of its own scale, so that only the offsets are rounded, to a 127th of a step.
    """
    before, after = layer.inputs[0].quant if layer.inputs else None, layer.output.quant
    if not isinstance(layer.op, ChannelScale) or before is None or after is None:
        return layer
    factor, offset = layer.op.factor.astype(np.float64), layer.op.offset.astype(np.float64)
    scale = np.where(factor == 0, after.scale[0] / before.scale[0], np.abs(factor)) / 127
    codes = np.rint(offset / (scale * before.scale[0]))
    if len(layer.output.shape) != 3 or not (np.abs(codes) < 1 << 30).all():
        return layer
    quant = Affine(tuple(scale.tolist()), 0, 0)
    weight = np.sign(factor).astype(np.int8).reshape(-1, 1, 1, 1) * np.int8(127)
    bias = Tensor(codes.astype(np.int32), replace(quant, unit=before.scale[0]))
    return replace(layer, op=Convolution(Tensor(weight, quant), bias, groups=len(scale)))


def _coded_end(network: Network) -> Network:
    """Give codes to what is averaged and moved behind the last codes: those that are read there."""
    coded: dict[Value, Value] = {v: v for v in network.inputs}
    needed = {v for x in network.layers if x.output.quant for v in x.inputs}
    layers = []
    for x in network.layers:
        inputs = tuple(coded[v] for v in x.inputs)
        output = x.output
        end = isinstance(x.op, Mean | Pool | Reshape | Transpose | Slice | Gather)
        if end and output.quant is None and output not in needed:
            output = replace(output, quant=inputs[0].quant)
        coded[x.output] = output
        layers.append(replace(x, inputs=inputs, output=output))
    outputs = tuple(coded[v] for v in network.outputs)
    return replace(network, layers=tuple(layers), outputs=outputs)


def _in_floats(network: Network) -> list[Unsupported]:
    """Return the layers of an int8 network that compute in floats, but for those at its end."""
    found = []
    users = network.users()
    for layer in network.layers:
        last = isinstance(layer.op, Softmax | LogSoftmax) or not users[layer.output]
        if (layer.output.quant is None and not last) or isinstance(layer.op, ChannelScale):
            found.append(
                Unsupported(
                    layer.name,
                    type(layer.op).__name__,
                    layer.output.shape,
                    "computes in floats between int8 layers; fold or quantise it too, or give the "
                    "float network",
                )
            )
    return found


_NO_MEMORY = "keeps a state; there is no layer that does"
_STATISTICS = "needs statistics of each image; train with BatchNormalization instead"
_PRODUCT = "multiplies data by data, which is attention; there is no layer that does"
_AGAIN = "is of another format of int8 files; quantise with quant_format=QuantFormat.QDQ"
_ADVICE = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _NO_MEMORY),
    **dict.fromkeys(
        (
            "LayerNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "LpNormalization",
            "MeanVarianceNormalization",
            "LRN",
        ),
        _STATISTICS,
    ),
    **dict.fromkeys(("Attention", "Einsum", "RotaryEmbedding"), _PRODUCT),
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
        _AGAIN,
    ),
}
