"""From an inference network to the entry points of a training program.

A network is a graph whose first output is the pooled feature vector, int8 [1, 1, c].
`passes.calls` says which entry points there are, and what each of them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kilograd.ir import (
    BlockExponent,
    Builder,
    DType,
    Graph,
    Input,
    Node,
    Param,
    Role,
    StreamedInput,
    TensorType,
    dead_code,
    rewrite,
    verify,
)
from kilograd.ops import (
    Accumulate,
    Clear,
    CrossEntropy,
    Enrol,
    FisherSum,
    Overlay,
    Sgd,
    Update,
)
from kilograd.ops.inputs import Clock, Label, Rate, Share
from kilograd.passes.calls import EntryPoint
from kilograd.passes.cut import cut
from kilograd.passes.differentiate import differentiate
from kilograd.passes.fuse import fuse_updates
from kilograd.passes.heads import Head, PrototypeHead, embedded, own
from kilograd.passes.overflow import accumulator_bounds, narrow_gradients
from kilograd.passes.prune import push_takes
from kilograd.passes.ranges import check_ranges
from kilograd.passes.recompute import recompute
from kilograd.passes.schedule import schedule
from kilograd.passes.snapshot import snapshot_weights
from kilograd.passes.split import Part, split
from kilograd.passes.stream import choose_streams, stream

LABEL = TensorType((1,), DType.I32)
RATE = TensorType((1,), DType.F32)
CLOCK = TensorType((2,), DType.I32)

_SUM_SALT = {EntryPoint.STEP: 1 << 20, EntryPoint.ENROL_GRAD: 1 << 21}
"""What tells the sums from the parameters, and what adds to them, where they are rounded."""


def _input(b: Builder, name: str, tensor: TensorType, op: Input) -> Node:
    """Append an input of ours."""
    return own(b.input(name, tensor, op, c_name=name), name)


@dataclass(frozen=True)
class Training:
    """What to make of a network.

    `learn` names the parameters of the network that learn, and which part of each;
    `train_head` lets a linear head learn too; `optimizer` is a prototype of every update;
    `accumulate` sums gradients over several samples until `apply` is called, in `sum_bits` (32, 16
    or 8) for each learned element; `stream` computes early layers row by row; `rows` takes the
    image row by row as well, so that it is never in memory as a whole; `recompute` runs layers
    again in place of keeping their maps for the backward pass, where that lowers the peak; `cache`
    cuts the network in front of what learns, if there is something in front.
    """

    head: Head
    optimizer: Update
    learn: Mapping[str, Part] = field(default_factory=dict, hash=False)  # a dict has none
    train_head: bool = True
    accumulate: bool = False
    stream: bool = True
    rows: bool = False
    recompute: bool = False
    cache: bool = False
    sum_bits: int = 32


def entries(network: Graph, training: Training) -> dict[str, Graph]:
    """Return every entry point, verified and scheduled; what learns decides which there are.

    Raises `AccumulatorError` where an int32 sum could overflow once parameters have changed,
    `LimitError` where a node is too large for its kernel, `StreamError` where the image cannot be
    taken row by row, and `InputError` where the network has a tensor with a name of ours.
    """
    network, names = learning(_pictured(network, training), training)
    graphs: dict[str, Graph] = {EntryPoint.INFER: _infer(network, training.head)}
    if training.cache and (parts := cut(network, names)):
        graphs[EntryPoint.PREFIX], network = parts
    if isinstance(training.head, PrototypeHead):
        graphs[EntryPoint.ENROL] = _enrol(network, training.head)
        graphs[EntryPoint.FORGET] = _forget(network, training.head, gradients=_exact(training))
    if names:
        graphs[EntryPoint.STEP] = _step(network, training, names)
        if _exact(training):
            graphs[EntryPoint.ENROL_GRAD] = _enrol_grad(network, training, names)
        if training.accumulate:
            graphs[EntryPoint.APPLY] = _apply(network, training, names)
    return _finished(graphs, EntryPoint.STEP if names else EntryPoint.INFER, names, training)


def inspection(network: Graph, head: PrototypeHead, layers: Sequence[str]) -> dict[str, Graph]:
    """Return the entry points that find out how much each channel of some layers matters.

        enrol    image, label -> prototypes[label] += features
        forget   -> prototypes = 0
        inspect  image, label -> loss; LAYER.fisher += the sample's share for each channel

    Nothing learns, and no map is kept that can be computed again, so that the peak stays near that
    of inference (TinyTrain, eq. 2; one sample at a time).
    """
    training = Training(head, Sgd(0), recompute=True)
    network = _pictured(network, training)
    b, features = _start(network)
    loss = _loss(b, head, head.logits(b, features))
    maps = [n for n in b.nodes if n.name in layers]
    grads = differentiate(b, loss, maps)
    sums = [b(FisherSum(), _fisher(b, n), n, g) for n, g in grads.items()]
    graphs: dict[str, Graph] = {
        EntryPoint.ENROL: _enrol(network, head),
        EntryPoint.FORGET: _forget(network, head, gradients=False),
        EntryPoint.INSPECT: narrow_gradients(b.graph(loss, *sums), ()),
    }
    return _finished(graphs, EntryPoint.INSPECT, (), training)


def _fisher(b: Builder, layer: Node) -> Node:
    """Append the sums of a layer's channels, all zero at first."""
    zeros, name = np.zeros(layer.type.shape[2], np.float32), f"{layer.name}.fisher"
    return own(b.param(name, zeros, role=Role.STATISTIC), name)


def _finished(
    graphs: dict[str, Graph], main: EntryPoint, names: Sequence[str], training: Training
) -> dict[str, Graph]:
    """Schedule and check all entry points; what saves memory is chosen for the `main` one."""
    for g in graphs.values():
        accumulator_bounds(g, names)
    graphs = {name: schedule(dead_code(g)) for name, g in graphs.items()}
    if training.recompute:
        graphs[main] = recompute(graphs[main])
    if training.stream:
        front = graphs.get(EntryPoint.PREFIX, graphs[main])
        chains = choose_streams(front, frozenset(names))
        graphs = {name: stream(g, chains) for name, g in graphs.items()}
    for g in graphs.values():
        check_ranges(g)
    return {name: verify(g) for name, g in graphs.items()}


def learning(network: Graph, training: Training) -> tuple[Graph, tuple[str, ...]]:
    """Return the network up to its features, with what learns in parameters of its own, and the
    names of these.
    """
    network, learned = split(_features(network), training.learn)
    return network, (*learned.values(), *(training.head.learned if training.train_head else ()))


def _pictured(network: Graph, training: Training) -> Graph:
    """Call the input of a network an image, which comes row by row if it is to."""
    op = StreamedInput() if training.rows else Input()

    def rule(b: Builder, n: Node) -> Node | None:
        if not isinstance(n.op, Input):
            return None
        return b.append(replace(n, op=op, c_name="image" if len(network.inputs()) == 1 else ""))

    return rewrite(network, rule)


def _loss(b: Builder, head: Head, logits: Node) -> Node:
    """Append the loss."""
    label = _input(b, "label", LABEL, Label(head.ways))
    return own(b(CrossEntropy(), logits, label, name="loss", c_name="loss"), "loss")


def _enrolled(b: Builder, head: PrototypeHead, features: Node) -> tuple[Node, Node]:
    """Append the addition of a sample to the prototype of its class; return prototypes and it."""
    x = embedded(b, features)
    prototypes = head.prototypes(b, x.type.size)
    label = _input(b, "label", LABEL, Label(head.ways))
    return prototypes, b(Enrol(), prototypes, x, label)


def _features(network: Graph) -> Graph:
    return dead_code(replace(network, outputs=network.outputs[:1]))


def _start(network: Graph) -> tuple[Builder, Node]:
    """Return a network to be gone on with, and its features."""
    return Builder(_features(network)), network.outputs[0]


def _infer(network: Graph, head: Head) -> Graph:
    b, features = _start(network)
    return b.graph(head.logits(b, features))


def _enrol(network: Graph, head: PrototypeHead) -> Graph:
    b, features = _start(network)
    return b.graph(_enrolled(b, head, features)[1])


def _forget(network: Graph, head: PrototypeHead, *, gradients: bool) -> Graph:
    b = Builder()
    prototypes = head.prototypes(b, network.outputs[0].type.size)
    tables = [prototypes, _gradients_of(b, prototypes)] if gradients else [prototypes]
    return b.graph(*(b(Clear(), table) for table in tables))


def _step(network: Graph, training: Training, names: tuple[str, ...]) -> Graph:
    return _pruned(differentiated(network, training, names), names)


def _enrol_grad(network: Graph, training: Training, names: tuple[str, ...]) -> Graph:
    """Return the backward pass of `enrol`, from the gradient of the prototypes."""
    assert isinstance(training.head, PrototypeHead)  # noqa: S101 says so to the type checker
    b, features = _start(network)
    prototypes, enrolled = _enrolled(b, training.head, features)
    params = [n for n in b.nodes if isinstance(n.op, Param) and n.name in names]
    grads = differentiate(b, enrolled, params, seed=_gradients_of(b, prototypes))
    whole = b.param("one", np.ones(1, np.float32))
    rule = Accumulate(_SUM_SALT[EntryPoint.ENROL_GRAD], state_bits=training.sum_bits)
    return _pruned(b.graph(*_added(b, grads, whole, rule)), names)


def _pruned(graph: Graph, names: tuple[str, ...]) -> Graph:
    """Leave of a backward pass what updates need."""
    return narrow_gradients(snapshot_weights(fuse_updates(push_takes(graph))), names)


def differentiated(
    network: Graph, training: Training, names: tuple[str, ...], *, everything: bool = False
) -> Graph:
    """Return the training step as no pass has seen it: updates come last, gradients are whole.

    `network` is split, and `names` learn.  With `everything`, the gradient of every parameter is
    computed and kept, as if all could learn.
    """
    b, features = _start(network)
    logits = training.head.logits(b, features)
    loss = _loss(b, training.head, logits)
    params = [n for n in b.nodes if isinstance(n.op, Param) and n.name in names]
    if _exact(training):
        params.append(logits.inputs[1])
    others = [n for n in b.nodes if isinstance(n.op, Param | Overlay) and n not in params]
    unused = differentiate(b, loss, [*params, *others] if everything else params)
    grads = {p: unused.pop(p) for p in params}
    if training.accumulate:
        rule = Accumulate(_SUM_SALT[EntryPoint.STEP], state_bits=training.sum_bits)
        updates = _added(b, grads, _input(b, "share", RATE, Share()), rule)
    else:
        rate, clock = _controls(b)
        updates = [
            _update(b, replace(training.optimizer, salt=i), p, g, rate, clock)
            for i, (p, g) in enumerate(grads.items())
        ]
    return b.graph(loss, logits, *unused.values(), *updates)


def _exact(training: Training) -> bool:
    head = training.head
    return training.accumulate and isinstance(head, PrototypeHead) and head.exact


def _added(b: Builder, grads: Mapping[Node, Node], share: Node, rule: Accumulate) -> list[Node]:
    """Append what adds a share of each gradient to the sum of its parameter.

    The sum of the gradients of prototypes is one of floats: `enrol_grad` looks classes up in it.
    """
    clock = _input(b, "clock", CLOCK, Clock()) if rule.coded else None
    added = []
    for i, (p, g) in enumerate(grads.items()):
        learns = p.name != PrototypeHead.table
        adds = replace(rule, salt=rule.salt + i) if learns and rule.coded else Accumulate(0)
        controls = [share, clock] if clock and adds.coded else [share]
        total = _beside(b, p, "sum", adds.sum_type(p.type))
        added.append(b(adds, total, g, *controls, name=f"{p.name}.add"))
    return added


def _apply(network: Graph, training: Training, names: tuple[str, ...]) -> Graph:
    start, features = _start(network)
    training.head.logits(start, features)
    params = [n for n in start.nodes if isinstance(n.op, Param) and n.name in names]
    b = Builder()
    rate, clock = _controls(b)
    outputs, sums = [], Accumulate(0, state_bits=training.sum_bits)
    for i, p in enumerate(params):
        own = b.append(p)
        b.data[p.name] = start.data[p.name]
        total = _beside(b, own, "sum", sums.sum_type(own.type))
        done = _update(b, replace(training.optimizer, salt=i), own, total, rate, clock)
        outputs += [done, b(Clear(), total, done, name=f"{total.name}.clear")]
    return b.graph(*outputs)


def _controls(b: Builder) -> tuple[Node, Node]:
    """Append what an update is told: the rate, and the clock."""
    return _input(b, "lr", RATE, Rate()), _input(b, "clock", CLOCK, Clock())


def _beside(b: Builder, param: Node, kind: str, tensor: TensorType) -> Node:
    """Append what is kept beside a parameter that learns, zero at first."""
    name = f"{param.name}.{kind}"
    c_name = f"{param.c_name}_{kind}" if param.c_name else ""
    zeros = np.zeros(tensor.shape, tensor.dtype.numpy)
    assert not isinstance(tensor.quant, BlockExponent)  # noqa: S101 says so to the type checker
    return own(b.param(name, zeros, tensor.quant, role=Role.OPTIMIZER, c_name=c_name), name)


def _gradients_of(b: Builder, prototypes: Node) -> Node:
    """Append the sum of the gradients of prototypes."""
    return _beside(b, prototypes, "sum", Accumulate(0).sum_type(prototypes.type))


def _update(b: Builder, rule: Update, param: Node, grad: Node, rate: Node, clock: Node) -> Node:
    states = [
        _beside(b, param, f"state{i}", tensor)
        for i, tensor in enumerate(rule.state_types(param.type))
    ]
    return b(rule, param, grad, *states, rate, clock, name=f"{param.name}.step")
