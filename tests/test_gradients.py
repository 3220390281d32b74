"""Gradients against calculus: float64, straight through, written without Kilograd (oracle.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from helpers import SHARED, model_path, needs_shared

from kilograd.emit import link
from kilograd.frontend import Model, load_model_folder
from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    DType,
    Graph,
    Node,
    TensorType,
    interpret,
)
from kilograd.ir.params import SCALES
from kilograd.ops import Sgd
from kilograd.passes import Head, LinearHead, Part, PrototypeHead, Training, entries
from kilograd.passes.training import CLOCK, RATE
from kilograd.targets import build_host

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SETS = ("flowers89", "gtsrb", "omniglot", "dtd10", "cifar100", "caltech101", "pacs", "bccd_cells")
WAYS = len(SETS)
"""One class a set: a label is its place in `SETS`."""

Heads = dict[str, oracle.Cosine | oracle.Linear]
Gradients = dict[str, Array]


@dataclass(frozen=True, repr=False)  # a failure must not print a network
class Subject:
    """A network twice, and the photograph of each class to learn from."""

    model: Model
    network: oracle.Network
    photos: tuple[oracle.Photo, ...]
    heads: Heads

    def expected(self, label: int, head: str) -> tuple[float, Gradients]:
        """Return the loss, and the gradients in the product's layout."""
        codes = self.network.run(self.photos[label])
        features = self.network.features(codes)
        loss, d_logits = oracle.cross_entropy(self.heads[head].logits(features), label)
        d_features = self.heads[head].gradient(features, d_logits)
        found = {k: channels_last(v) for k, v in self.network.backward(codes, d_features).items()}
        if head == "linear":
            found |= {"head.weight": np.outer(d_logits, features), "head.bias": d_logits}
        return loss, found

    def step(self, head: str, layers: tuple[str, ...]) -> Graph:
        """Return the entry point that adds up gradients of all weights and biases of `layers`."""
        kind: Head = LinearHead(WAYS) if head == "linear" else PrototypeHead(WAYS)
        learn = {f"{name}.{what}": Part() for name in layers for what in ("weight", "bias")}
        return entries(self.model.graph, Training(kind, Sgd(0), learn, accumulate=True))["step"]

    def found(self, step: Graph, label: int, head: str) -> tuple[float, Gradients]:
        """Return the loss, and the gradients after one step of the integer program from zero."""
        feeds: dict[str, Array] = {
            "image": self.photos[label],
            "label": np.array([label], np.int32),
            "share": np.ones(1, np.float32),
        }
        done = interpret(step, {**feeds, **self.state(head)})
        sums = {k.removesuffix(".sum"): v for k, v in done.items() if k.endswith(".sum")}
        loss = done["loss"]
        assert not isinstance(loss, Block)
        return float(loss[0]), {k: v for k, v in sums.items() if not isinstance(v, Block)}

    def state(self, head: str) -> dict[str, Array]:
        """Return the parameters of the head as the program keeps them."""
        match self.heads[head]:
            case oracle.Linear(weight, bias):
                return {
                    "head.weight": weight.astype(np.float32),
                    "head.bias": bias.astype(np.float32),
                }
            case oracle.Cosine(prototypes):
                return {"head.prototypes": prototypes.astype(np.float32)}


def channels_last(gradient: oracle.Real) -> Array:
    """[out, in, h, w] as [out, h, w, in], a depthwise filter [c, 1, h, w] as [h, w, c]."""
    if gradient.ndim == 1:
        return gradient
    if gradient.shape[1] == 1:
        return gradient[:, 0].transpose(1, 2, 0)
    return gradient.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module", params=NETWORKS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """A network with a prototype head that has seen three images of each class, and a linear one
    with random weights: at its own zeros no gradient would pass."""
    path = model_path(request.param)
    assert SHARED is not None
    network = oracle.Network(path)
    photos = [oracle.photographs(SHARED / "data" / f"{name}.parquet", 4) for name in SETS]
    seen = [[network.features(network.run(x)) for x, _ in photo[:3]] for photo in photos]
    prototypes = np.sum(np.array(seen), axis=1)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 0.05, prototypes.shape), rng.normal(0, 0.1, WAYS)

    def single(x: oracle.Real) -> oracle.Real:
        return x.astype(np.float32).astype(np.float64)

    return Subject(
        load_model_folder(path),
        network,
        tuple(photo[3][0] for photo in photos),
        {
            "prototype": oracle.Cosine(single(prototypes)),
            "linear": oracle.Linear(single(weight), single(bias)),
        },
    )


# -- the oracle itself -----------------------------------------------------------------------------


def kinds(network: oracle.Network) -> Iterator[str]:
    """Yield layers of every kind: stem, expand, depthwise of each size and stride, project."""
    seen = set()
    for op in network.ops:
        if op["name"] not in network.layers or op["type"] == "linear":
            continue
        kind = op["type"], op["position"], tuple(op["kernel"]), tuple(op["stride"])
        if kind not in seen:
            seen.add(kind)
            yield op["name"]


@needs_shared
@pytest.mark.parametrize("head", ["prototype", "linear"])
def test_oracle_agrees_with_finite_differences(subject: Subject, head: str) -> None:
    """Without rounding the network is smooth almost everywhere, and its slope can be measured."""
    net, photo, label, rng = copy(subject.network), subject.photos[0], 0, np.random.default_rng(1)
    # Integers add up to exactly zero now and then, which is where ReLU has no slope.
    net.layers = {
        name: replace(layer, bias=layer.bias + rng.uniform(-0.5, 0.5, layer.bias.shape))
        for name, layer in net.layers.items()
    }
    codes = net.run(photo, rounded=False)
    features = net.features(codes)
    _, d_logits = oracle.cross_entropy(subject.heads[head].logits(features), label)
    gradients = net.backward(codes, subject.heads[head].gradient(features, d_logits))

    def loss_with(name: str, layer: oracle.Layer) -> float:
        before = net.layers[name]
        net.layers[name] = layer
        try:
            found = net.features(net.run(photo, rounded=False))
        finally:
            net.layers[name] = before
        return oracle.cross_entropy(subject.heads[head].logits(found), label)[0]

    for name in kinds(net):
        layer = net.layers[name]
        along = rng.normal(size=layer.weight.shape), rng.normal(size=layer.bias.shape)
        step = 1e-8 * np.abs(layer.weight * layer.weight_scale[:, None, None, None]).mean()
        up, down = (
            replace(
                layer,
                weight=layer.weight
                + sign * step * along[0] / layer.weight_scale[:, None, None, None],
                bias=layer.bias + sign * step * along[1] / layer.bias_scale,
            )
            for sign in (1, -1)
        )
        measured = (loss_with(name, up) - loss_with(name, down)) / (2 * step)
        slope = (gradients[f"{name}.weight"] * along[0]).sum()
        slope += (gradients[f"{name}.bias"] * along[1]).sum()
        assert measured == pytest.approx(slope, rel=1e-4), name


# -- the integer program ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How well a gradient fits: 1 and 1 are perfect."""

    cosine: float
    ratio: float
    tensor: str

    @classmethod
    def of(cls, tensor: str, found: Array, expected: Array) -> Agreement:
        a, c = found.astype(np.float64).ravel(), expected.ravel()
        lengths = float(np.linalg.norm(a)), float(np.linalg.norm(c))
        return cls(float(a @ c) / (lengths[0] * lengths[1]), lengths[0] / lengths[1], tensor)


def agreements(
    subject: Subject, layers: tuple[str, ...], labels: Mapping[str, tuple[int, ...]]
) -> list[Agreement]:
    """Compare every learned tensor, for each head on the photographs of the classes given."""
    out = []
    for head, chosen in labels.items():
        step = subject.step(head, layers)
        for label in chosen:
            loss, found = subject.found(step, label, head)
            expected_loss, expected = subject.expected(label, head)
            assert loss == pytest.approx(expected_loss, abs=1e-5, rel=1e-5)
            learned = {f"{name}.{what}" for name in layers for what in ("weight", "bias")}
            head_too = {"head.weight", "head.bias"} if head == "linear" else set()
            assert set(found) == learned | head_too
            out += [Agreement.of(name, found[name], expected[name]) for name in sorted(found)]
    return out


def say(subject: Subject, what: str, compared: list[Agreement]) -> None:
    """Print one row of a table: what it is, tensors compared, worst cosine, farthest norm."""
    worst = min(compared, key=lambda a: a.cosine)
    far = max(compared, key=lambda a: abs(a.ratio - 1))
    print(
        f"\n| {subject.model.name} | {what} | {len(compared)} "
        f"| {worst.cosine:.7f} ({worst.tensor}) | {far.ratio:.4f} ({far.tensor}) |"
    )


@needs_shared
def test_gradients_of_the_last_20_convolutions(subject: Subject) -> None:
    labels = {"prototype": (0, 2, 4, 6), "linear": (1, 3, 5, 7)}
    compared = agreements(subject, subject.model.layers[-20:], labels)
    say(subject, "last 20", compared)
    assert min(a.cosine for a in compared) > 0.9999
    assert max(abs(a.ratio - 1) for a in compared) < 0.002


@needs_shared
def test_gradients_of_all_convolutions(subject: Subject) -> None:
    """The first layers sum over 4,096 pixels with signs that cancel, and the proof of no overflow
    leaves them mantissas of 11 bits: their norms are off by up to 2 %, their directions hold."""
    labels = {"prototype": (1, 5), "linear": (0, 5)}
    compared = agreements(subject, subject.model.layers, labels)
    say(subject, "all", compared)
    assert min(a.cosine for a in compared) > 0.999
    assert max(abs(a.ratio - 1) for a in compared) < 0.02


@needs_shared
def test_part_of_a_gradient_is_the_gradient_of_the_part(subject: Subject) -> None:
    """Cut by input channel, by output channel, and depthwise: the parts of a plan."""
    name_of = {op["position"]: op["name"] for op in subject.network.ops if op["block"] == 10}
    parts = {
        f"{name_of['pw1']}.weight": Part(3, (0, 3, 4, 11)),
        f"{name_of['dw']}.weight": Part(2, (1, 2, 30)),
        f"{name_of['pw2']}.weight": Part(0, (0, 5, 23)),
    }
    training = Training(PrototypeHead(WAYS), Sgd(0), parts, accumulate=True)
    step = entries(subject.model.graph, training)["step"]
    _, found = subject.found(step, 3, "prototype")
    _, expected = subject.expected(3, "prototype")
    assert set(found) == {f"{name}.learned" for name in parts}
    for name, part in parts.items():
        want = np.take(expected[name], part.index or (), part.axis)
        fit = Agreement.of(name, found[f"{name}.learned"], want)
        assert fit.cosine > 0.9999
        assert fit.ratio == pytest.approx(1, abs=0.002)


# -- through prototypes ----------------------------------------------------------------------------

Shots = list[tuple[oracle.Photo, int]]


def exact_gradients(
    net: oracle.Network, support: Shots, seen: Shots, *, rounded: bool = True
) -> tuple[float, Gradients]:
    """Return the mean loss of `seen`, and its gradients, those through the prototypes too."""
    shown = [net.run(x, rounded=rounded) for x, _ in support]
    ways = 1 + max(label for _, label in support)
    prototypes = np.zeros((ways, len(net.features(shown[0]))))
    for codes, (_, label) in zip(shown, support, strict=True):
        prototypes[label] += net.features(codes)
    head = oracle.Cosine(prototypes)
    total, d_prototypes = 0.0, np.zeros_like(prototypes)
    gradients: Gradients = {}

    def add(codes: Mapping[str, oracle.Real], d_features: oracle.Real) -> None:
        for k, v in net.backward(codes, d_features).items():
            gradients[k] = gradients.get(k, 0) + v

    for photo, label in seen:
        codes = net.run(photo, rounded=rounded)
        features = net.features(codes)
        loss, d_logits = oracle.cross_entropy(head.logits(features), label)
        total += loss / len(seen)
        add(codes, head.gradient(features, d_logits) / len(seen))
        d_prototypes += head.prototype_gradient(features, d_logits) / len(seen)
    for codes, (_, label) in zip(shown, support, strict=True):
        add(codes, d_prototypes[label])
    return total, gradients


@pytest.fixture(scope="module")
def shots() -> tuple[Shots, Shots]:
    """Two photographs of each of `WAYS` classes to enrol, and one to learn."""
    if SHARED is None:
        pytest.skip("the data sets are not here")
    photos = [oracle.photographs(SHARED / "data" / f"{name}.parquet", 3) for name in SETS]
    support = [(x, k) for k, photo in enumerate(photos) for x, _ in photo[:2]]
    return support, [(photo[2][0], k) for k, photo in enumerate(photos)]


def test_oracle_through_prototypes_agrees_with_finite_differences(
    shots: tuple[Shots, Shots],
) -> None:
    support, seen = shots[0][:6], shots[1][:3]
    net, rng = oracle.Network(model_path("mcunet-5fps")), np.random.default_rng(2)
    net.layers = {
        name: replace(layer, bias=layer.bias + rng.uniform(-0.5, 0.5, layer.bias.shape))
        for name, layer in net.layers.items()
    }
    _, gradients = exact_gradients(net, support, seen, rounded=False)
    for name in ("blocks.10.pw1", "blocks.13.dw", "blocks.13.pw2"):
        layer = net.layers[name]
        real = layer.weight * layer.weight_scale[:, None, None, None]
        along = rng.normal(size=layer.weight.shape)
        step = 1e-7 * np.abs(real).mean()
        ends = []
        for sign in (1, -1):
            scaled = step * along / layer.weight_scale[:, None, None, None]
            net.layers[name] = replace(layer, weight=layer.weight + sign * scaled)
            ends.append(exact_gradients(net, support, seen, rounded=False)[0])
        net.layers[name] = layer
        slope = (gradients[f"{name}.weight"] * along).sum()
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4), name


def test_gradients_through_prototypes(shots: tuple[Shots, Shots]) -> None:
    """The sums before an update, by the compiled program; the detached ones are others."""
    support, seen = shots
    path = model_path("mcunet-5fps")
    model = load_model_folder(path)
    learn = {f"{name}.{what}": Part() for name in model.layers[-8:] for what in ("weight", "bias")}
    head = PrototypeHead(WAYS, exact=True)
    training = Training(head, Sgd(0), learn, accumulate=True, cache=True)
    host = build_host(link(entries(model.graph, training)))

    def through(entry: str, shown: Shots, **more: Array) -> None:
        for photo, label in shown:
            latent = host.call("prefix", image=photo)
            host.call(entry, **latent, label=np.array([label]), **more)

    host.call("forget")
    through("enrol", support)
    through("step", seen, share=np.array([1 / len(seen)]))
    detached = {name: host.state[f"{name}.sum"].copy() for name in learn}
    through("enrol_grad", support)
    _, wanted = exact_gradients(oracle.Network(path), support, seen)
    for name in learn:
        want = channels_last(wanted[name])
        fit = Agreement.of(name, host.state[f"{name}.sum"], want)
        assert fit.cosine > 0.9999, name
        assert fit.ratio == pytest.approx(1, abs=0.002), name
        assert Agreement.of(name, detached[name], want).cosine < 0.99, name
    host.call("forget")
    assert not host.state["head.prototypes.sum"].any()


# -- updates ---------------------------------------------------------------------------------------


def mean_step(
    param: TensorType,
    start: Array,
    grad: Block,
    scale: float,
    seeds: int,
    *,
    rate: float = 1,
    qas: bool = True,
) -> Array:
    """Return the mean step in codes of plain gradient descent, each within a code of it."""
    leaves = [
        Node(Sgd(0), (), kind, "x")
        for kind in (
            param,
            TensorType(param.shape, DType.I32, BlockExponent(31, scale)),
            RATE,
            CLOCK,
        )
    ]
    op = Sgd(salt=5, qas=qas)
    node = Node(op, tuple(leaves), param, "step")
    total = np.zeros(param.shape)
    each = np.full(1, rate, np.float32)
    for seed in range(seeds):
        clock = np.array([seed, 3], np.int32)
        (new,) = op.reference(node, start, grad, each, clock)
        assert not isinstance(new, Block)
        total += new.astype(np.float64) - start
    return np.asarray(total / seeds)


@pytest.mark.parametrize(
    ("shape", "dtype", "axis"),
    [
        pytest.param((6, 1, 1, 20), DType.I8, 0, id="conv"),
        pytest.param((3, 3, 16), DType.I8, 2, id="depthwise"),
        pytest.param((40,), DType.I32, 0, id="bias"),
    ],
)
@pytest.mark.parametrize("codes", [0.003, 0.3, 2.5], ids=lambda c: f"{c} codes")
def test_descent_on_codes_is_descent_on_reals(
    shape: tuple[int, ...], dtype: DType, axis: int, codes: float
) -> None:
    """Quantisation-aware scaling: on average every step is the real one, however small."""
    rng = np.random.default_rng(7)
    scales = 10.0 ** rng.uniform(-3, -1, shape[axis])
    param = TensorType(shape, dtype, Affine(tuple(scales.tolist()), axis=axis))
    start = rng.integers(-90, 90, shape).astype(dtype.numpy)
    along = scales.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    exponent, static = -27, 0.25
    unit = static * 2.0**exponent
    mantissa = np.rint(rng.normal(0, codes, shape) * along / unit).astype(np.int32)
    real = mantissa * unit
    seeds = 2000
    step = mean_step(param, start, Block(mantissa, exponent), static, seeds) * along

    wanted = -real / along
    fraction = wanted - np.floor(wanted)
    spread = np.sqrt(fraction * (1 - fraction) / seeds)
    error = (step / along - wanted) / np.maximum(spread, 1e-4)
    assert np.abs(error).max() < 5
    assert np.sqrt((error**2).mean()) < 1.3
    assert (step * real).sum() < 0


@pytest.mark.parametrize(
    ("shape", "dtype", "axis", "unit"),
    [
        pytest.param((6, 1, 1, 20), DType.I8, 0, 1.0, id="conv"),
        pytest.param((3, 3, 16), DType.I8, 2, 1.0, id="depthwise"),
        pytest.param((40,), DType.I32, 0, 0.03, id="bias"),
    ],
)
def test_without_qas_codes_are_the_parameters(
    shape: tuple[int, ...], dtype: DType, axis: int, unit: float
) -> None:
    """A code q stands for unit * s * q, so the loss falls along unit * s times the real gradient.

    That is (unit * s)^2 times the step with QAS (slides of the 256 KB paper, 16 to 18).
    """
    rng = np.random.default_rng(11)
    scales = 10.0 ** rng.uniform(-3, -1, shape[axis])
    param = TensorType(shape, dtype, Affine(tuple(scales.tolist()), axis=axis, unit=unit))
    start = rng.integers(-60, 60, shape).astype(dtype.numpy)
    worth = unit * scales.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    exponent, static, rate, seeds = -27, 0.25, 400 / unit**2, 400
    mantissa = np.rint(rng.normal(0, 0.5, shape) / static * 2.0**-exponent / 400).astype(np.int32)
    real = mantissa * static * 2.0**exponent
    wanted = -rate * worth * real

    block = Block(mantissa, exponent)
    once = mean_step(param, start, block, static, 1, rate=rate, qas=False)
    assert np.abs(once - wanted).max() < 1
    assert (once != 0).any()
    step = mean_step(param, start, block, static, seeds, rate=rate, qas=False)
    fraction = wanted - np.floor(wanted)
    spread = np.sqrt(fraction * (1 - fraction) / seeds)
    error = (step - wanted) / np.maximum(spread, 2e-3)
    assert np.abs(error).max() < 5
    assert np.sqrt((error**2).mean()) < 1.3


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("unit", SCALES)
@pytest.mark.parametrize("qas", [True, False])
def test_every_scale_has_a_step(scale: float, unit: float, qas: bool) -> None:
    param = TensorType((3,), DType.I32, Affine((scale,) * 3, axis=0, unit=unit))
    fields = Sgd(0, qas=qas).fields(param)
    assert fields.scale is not None
    codes = fields.codes / fields.scale[0]
    worth = scale * unit
    assert codes == pytest.approx(1 / worth if qas else worth, rel=1e-6)


@needs_shared
def test_steps_of_the_compiled_network_follow_the_gradient() -> None:
    """End to end: over many seeds the C program moves real weights by -lr times the gradient."""
    path = model_path("mcunet-5fps")
    assert SHARED is not None
    network, model = oracle.Network(path), load_model_folder(path)
    photos = [x for x, _ in oracle.photographs(SHARED / "data" / "flowers89.parquet", WAYS)]
    features = [network.features(network.run(x)) for x in photos]
    prototypes = np.array(features, np.float32)
    cosine = oracle.Cosine(prototypes.astype(np.float64))
    label, name = 2, "blocks.13.pw2.weight"
    _, d_logits = oracle.cross_entropy(cosine.logits(features[0]), label)
    codes = network.run(photos[0])
    expected = network.backward(codes, cosine.gradient(features[0], d_logits))[name]
    gradient = channels_last(expected)
    scales = np.array(model.graph[name].type.affine.scale)[:, None, None, None]
    rate = 0.9 / np.abs(gradient / scales).max()
    wanted = -rate * gradient / scales

    host = build_host(
        link(entries(model.graph, Training(PrototypeHead(WAYS), Sgd(0), {name: Part()})))
    )
    seeds = 100
    total: Array = np.zeros(gradient.shape)
    for seed in range(seeds):
        host.reset()
        host.state["head.prototypes"][...] = prototypes
        before = host.state[name].astype(np.float64)
        host.call(
            "step",
            image=photos[0],
            label=np.array([label]),
            lr=np.array([rate]),
            clock=np.array([seed, 0]),
        )
        total += host.state[name] - before
    mean = total / seeds

    free = np.abs(model.graph.data[name]) < 127  # the others may not go farther out
    slope = (mean * wanted)[free].sum() / (wanted[free] ** 2).sum()
    assert slope == pytest.approx(1, abs=0.01)
    spread = np.sqrt(np.abs(wanted) * (1 - np.abs(wanted)) / seeds)
    error = ((mean - wanted) / np.maximum(spread, 1e-3))[free]
    assert np.sqrt((error**2).mean()) < 1.1
