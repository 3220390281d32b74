"""What was learned goes back into the file that the network is from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kilograd import limits
from kilograd.data import Dataset, load_samples
from kilograd.emit import link
from kilograd.errors import InputError, option
from kilograd.frontend import Model
from kilograd.frontend.files import read_network
from kilograd.frontend.layouts import graph_layout
from kilograd.ir import Affine, Array, Graph, Node
from kilograd.layers.calibrate import affine
from kilograd.layers.evaluate import Arithmetic, dequantised, evaluate, real
from kilograd.layers.learned import Learned
from kilograd.layers.network import Convolution, Dense, Layer, Network, Tensor, Value
from kilograd.layers.simplify import simplify
from kilograd.layers.simplify.edit import edited
from kilograd.learn.adapted import Adapted, load_adapted
from kilograd.ops import Conv
from kilograd.options import as_path
from kilograd.output import check_apart, check_file, write_file
from kilograd.passes import EntryPoint, PrototypeHead
from kilograd.passes.heads import Int8Head
from kilograd.reading import read_bytes
from kilograd.targets import build_host

Place = str | Path
_SAMPLES = 128
_CLOSE = 1e-4
"""Of the largest: what reals may be off that were multiplied and divided again."""
_ROOM = 1.25
"""A logit may be so many times as large as those that were seen."""


@dataclass(frozen=True)
class Merged:
    """What was written: which layers have new numbers, and the classes of the new classifier.

    `agreement`: of how many samples the file's numbers give the class that the device gives, and of
    how many; `None` without samples.
    """

    path: Path
    layers: tuple[str, ...]
    classes: tuple[str, ...]
    agreement: tuple[int, int] | None = None


def merge(
    adapted: Place | Adapted,
    into: Place,
    out: Place,
    data: Place | None = None,
    *,
    force: bool = False,
) -> Merged:
    """Write the learned numbers into a copy of the file that the network was imported from.

    `into`: that file, of TFLite, ONNX or PyTorch; of PyTorch a state dict is written.
    `data`: samples of the classes.  From them the range of the logits is, which the int8 classifier
    of a file with codes needs (without, it is the widest there can be, and logits are coarse); and
    they show how often the file and the device say the same.

    The weights, biases and the classifier are what the device has: a file with codes computes the
    same features to the bit.  A classifier of prototypes becomes a dense layer that chooses the
    same classes: of logits without the division by the length of the features.

    Raises `InputError` for a network that was not imported, for another file than it was, for what
    a file cannot hold, and where the disk refuses.
    """
    found = adapted if isinstance(adapted, Adapted) else load_adapted(as_path("adapted", adapted))
    file, place = as_path("into", into), as_path("out", out)
    _check_origin(found.compiled.network, file)
    suffixes = {".pt2": (".safetensors", ".pt")}.get(file.suffix.lower(), (file.suffix.lower(),))
    if place.suffix.lower() not in suffixes:
        raise InputError(f"{option('out')} {place}: name it {' or '.join(suffixes)}")
    check_file(place, place.suffix, force=force)
    check_apart(place, file)
    plain = simplify(read_network(file))
    samples = None if data is None else load_samples(as_path("data", data))
    learned = dict(_learned(found, plain, samples))
    if not learned:
        raise InputError(f"{file}: nothing has learned that it holds")
    _write(file, place, learned)
    same = None if samples is None else _agreement(found, renewed(plain, learned), samples)
    return Merged(place, tuple(learned), found.classes, same)


def _check_origin(network: Model, file: Path) -> None:
    """Raise `InputError` unless a network was imported from just this file."""
    known = "" if network.source is None else network.source.sha256
    if not known:
        raise InputError(
            f"{network.name}: was not imported from a file, so there is none to write to; kilograd "
            "import brings one in"
        )
    if _checksum(file) != known:
        raise InputError(
            f"{option('into')} {file}: is not the file that {network.name} was imported from; give "
            "that one, unchanged"
        )


def _checksum(file: Path) -> str:
    if file.suffix.lower() == ".onnx":
        from kilograd.frontend.onnx import checksum

        return checksum(file)  # of what lies beside it too
    return hashlib.sha256(read_bytes(file, limits.TENSOR_BYTES)).hexdigest()


def _write(file: Path, out: Path, learned: Mapping[str, Learned]) -> None:
    match file.suffix.lower():
        case ".tflite":
            from kilograd.frontend.tflite import write_tflite

            new = write_tflite(file, learned)
        case ".onnx":
            from kilograd.frontend.onnx import write_onnx

            new = write_onnx(file, learned)
        case _:
            from kilograd.frontend.torch_export import read_program, save_state_dict, state_dict

            save_state_dict(out, state_dict(read_program(file), learned))
            return
    _check_written(file, new, learned)
    write_file(out, new)


def _check_written(file: Path, new: bytes, learned: Mapping[str, Learned]) -> None:
    """Raise `InputError` unless a file with new numbers, read again, has them.

    What is simplified in a network of reals may join a layer with what stands behind it in the
    file: then the numbers of the one are not those of the other.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, file.name)
        copy.write_bytes(new)
        layers = {x.name: x.op for x in simplify(read_network(copy)).layers}
    for name, wanted in learned.items():
        op = layers.get(name)
        if not isinstance(op, Convolution | Dense) or not _same(op.weight, wanted.weight):
            raise InputError(
                f"{file}: what follows {name} is joined with it on the way in, and cannot be taken "
                "apart; let it not learn, or fold it in the file"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are the same: codes to the bit, reals within float32."""
    if a.values.shape != b.values.shape:
        return False
    if a.quant is not None and b.quant is not None:
        return bool((a.values == b.values).all())
    x, y = real(a, np.float64), real(b, np.float64)
    return bool(np.abs(x - y).max(initial=0) <= _CLOSE * np.abs(y).max(initial=0))


def renewed(network: Network, learned: Mapping[str, Learned]) -> Network:
    """Return a simple network with new numbers in some of its layers, by their names."""
    new: dict[Layer, list[Layer]] = {}
    same: dict[Value, Value] = {}
    for x in network.layers:
        if x.name in learned and isinstance(x.op, Convolution | Dense):
            numbers, y = learned[x.name], x.output
            op = replace(x.op, weight=numbers.weight, bias=numbers.bias)
            shape = (*y.shape[:-1], len(numbers.weight.values))
            output = replace(y, shape=shape, quant=numbers.output or y.quant)
            new[x] = [replace(x, op=op, output=output)]
            if output != y:
                same[y] = output
    return edited(network, new, same)


def _agreement(found: Adapted, network: Network, samples: Dataset) -> tuple[int, int]:
    """Return of how many samples a network gives the class that the device gives, of how many."""
    model, host = found.compiled.model, found.host()
    images = _chosen(samples, model)
    device = [host.call(EntryPoint.INFER, image=x)["logits"].argmax() for x in images]
    (image,) = network.inputs
    reals = dequantised(images, model.graph.inputs()[0].type.affine).astype(np.float32)
    given = {image.name: reals.reshape(-1, *image.shape)}
    arithmetic = Arithmetic.CODES if network.quantised else Arithmetic.REALS
    classifier = _classifier(model).name
    (logits,) = (x.output for x in network.layers if x.name == classifier)
    made = evaluate(network, given, [logits], arithmetic)[logits]
    chosen = made.reshape(len(images), -1).argmax(axis=1)
    return int((chosen == np.array(device)).sum()), len(images)


def _chosen(samples: Dataset, model: Model) -> Array:
    """Return some samples as the network takes them, int8 [n, height, width, channels]."""
    count = min(len(samples), _SAMPLES)
    chosen = np.linspace(0, len(samples) - 1, count).astype(int).tolist()
    return np.stack([samples.prepared(i, model.preprocess) for i in chosen])


# -- layers ----------------------------------------------------------------------------------------


def _learned(
    found: Adapted, plain: Network, samples: Dataset | None
) -> Iterator[tuple[str, Learned]]:
    """Yield the new numbers of each layer, by its name in the file."""
    if found.compiled.selection.graph is not None:
        raise InputError(
            f"method {found.compiled.recipe.method}: has added layers, which the file has no place "
            "for; choose another method"
        )
    ops = {x.name: x.op for x in plain.layers if isinstance(x.op, Convolution | Dense)}
    model, tensors = found.compiled.model, found.tensors
    changed = {name.rpartition(".")[0] for name in found.compiled.training.learn}
    for name in (n for n in model.layers if n in changed):
        op = ops[name]
        weight = tensors.get(f"{name}.weight", None)
        bias = tensors.get(f"{name}.bias", model.graph.data[f"{name}.bias"])
        codes = op.weight.values if weight is None else _as_in_network(weight, op)
        yield name, _layer(model.graph, name, op, codes, bias, changed=weight is not None)
    classifier = _classifier(model)
    yield classifier.name, _head(found, classifier, ops[classifier.name], plain, samples)


def _as_in_network(weight: Array, op: Convolution | Dense) -> Array:
    """Return weights [out, in, kh, kw] as a layer of a network has them."""
    if isinstance(op, Dense):
        return weight.reshape(len(weight), -1)
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))


def _layer(
    graph: Graph, name: str, op: Convolution | Dense, codes: Array, bias: Array, *, changed: bool
) -> Learned:
    """Return the new numbers of a layer; the weights of the file where they have not changed."""
    quant, origin = graph[f"{name}.weight"].type.affine, op.weight
    weight = replace(origin, values=codes, quant=Affine(quant.scale, axis=0)) if changed else origin
    unit = graph[f"{name}.bias"].type.affine.unit
    sums = Tensor(bias, Affine(quant.scale, axis=0, unit=unit))
    if op.bias is not None:
        sums = replace(op.bias, values=bias, quant=sums.quant)
    elif not bias.any():
        return Learned(weight)
    return Learned(weight, sums)


# -- the classifier --------------------------------------------------------------------------------


def _classifier(model: Model) -> Node:
    """Return the layer that a new head takes the place of."""
    features, logits = model.graph.outputs[:2]
    own = [n for n in model.graph.nodes if isinstance(n.op, Conv) and n.name not in model.layers]
    fit = [n for n in own if n.inputs[0] is features]
    if len(fit) != 1 or fit[0].type.size != logits.type.size:
        raise InputError(
            f"{model.name}: its file has no dense layer on the features that a new classifier "
            "could take the place of"
        )
    return fit[0]


def _head(
    found: Adapted, node: Node, op: Convolution | Dense, plain: Network, samples: Dataset | None
) -> Learned:
    """Return the new classifier: reals, or codes where the file has codes."""
    weight, bias = _dense(found, node)
    shape = (len(weight), *op.weight.values.shape[1:])
    if not plain.quantised:
        reals = replace(op.weight, values=weight.reshape(shape).astype(np.float32), quant=None)
        return Learned(reals, _bias(op, Tensor(bias.astype(np.float32))))
    single = op.weight.quant is not None and len(op.weight.quant.scale) == 1
    scale = _scales(found, node, weight, single=single)
    codes = np.rint(weight / scale[:, None]).astype(np.int8).reshape(shape)
    unit = node.inputs[0].type.affine.scale[0]
    kept = tuple(scale.tolist())[: 1 if single else None]
    sums = Affine(kept, axis=None if single else 0, unit=unit)
    new = Tensor(np.rint(bias / (unit * scale)).astype(np.int32), sums)
    quant = Affine(kept, axis=None if single else 0)
    codes_of = replace(op.weight, values=codes, quant=quant)
    return Learned(codes_of, _bias(op, new), _output(found, node, weight, bias, samples))


def _bias(op: Convolution | Dense, new: Tensor) -> Tensor:
    return new if op.bias is None else replace(op.bias, values=new.values, quant=new.quant)


def _scales(found: Adapted, node: Node, weight: Array, *, single: bool) -> Array:
    """Return the scale of each class's weights: those that an int8 head has."""
    head = found.compiled.training.head
    if isinstance(head, Int8Head):
        return np.full(len(weight), head.weight_scale(node.inputs[0]))
    largest = np.abs(weight).max(axis=1)
    largest = np.full(len(weight), largest.max()) if single else largest
    return np.maximum(largest / 127, 1e-8).astype(np.float32).astype(np.float64)


def _dense(found: Adapted, node: Node) -> tuple[Array, Array]:
    """Return the head as a dense layer, float64 [classes, features] and [classes]."""
    head, tensors = found.compiled.training.head, found.tensors
    if isinstance(head, PrototypeHead):
        table = tensors[PrototypeHead.table].astype(np.float64)
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        weight = head.scale * table / np.where(lengths == 0, 1, lengths)
        # what all classes have in common chooses none, and takes most of what int8 has room for
        return weight - weight.mean(axis=0), np.zeros(len(weight))
    weight, bias = (tensors[name].astype(np.float64) for name in head.learned)
    if isinstance(head, Int8Head):
        (features, *_) = node.inputs
        scale, unit = head.weight_scale(features), features.type.affine.scale[0]
        return weight.reshape(len(weight), -1) * scale, bias * scale * unit
    return weight, bias


def _output(
    found: Adapted, node: Node, weight: Array, bias: Array, samples: Dataset | None
) -> Affine:
    """Return what the codes of the logits mean."""
    head = found.compiled.training.head
    if isinstance(head, Int8Head):
        return head.logit
    return affine(_range(found, node, weight, bias, samples))


def _range(
    found: Adapted, node: Node, weight: Array, bias: Array, samples: Dataset | None
) -> tuple[float, float]:
    """Return the range of the logits: seen on samples, or the widest that features can make."""
    quant = node.inputs[0].type.affine
    if samples is None:
        ends = [(code - quant.zero_point) * quant.scale[0] for code in (-128, 127)]
        low, high = (f(weight * ends[0], weight * ends[1]) for f in (np.minimum, np.maximum))
        return float((low.sum(axis=1) + bias).min()), float((high.sum(axis=1) + bias).max())
    codes = features_of(found, samples).astype(np.float64)
    logits = (codes - quant.zero_point) * quant.scale[0] @ weight.T + bias
    return _ROOM * float(logits.min()), _ROOM * float(logits.max())


def features_of(found: Adapted, samples: Dataset) -> Array:
    """Return the codes of the features of some samples, int8 [n, features], after learning."""
    graph = learned_graph(found)
    features = graph.outputs[0]
    host = build_host(link({EntryPoint.INFER: replace(graph, outputs=(features,))}))
    images = _chosen(samples, found.compiled.model)
    rows = [host.call(EntryPoint.INFER, image=x)[features.name].ravel().copy() for x in images]
    return np.stack(rows)


def learned_graph(found: Adapted) -> Graph:
    """Return the graph of the network with the learned numbers in its layers."""
    graph = found.compiled.model.graph
    data = {
        name: graph_layout(graph[name], value)
        for name, value in found.tensors.items()
        if name in found.compiled.training.learn
    }
    return replace(graph, data={**graph.data, **data})
