"""Small modules that learn beside the blocks of a frozen network (TinyTL, Cai et al. 2020).

The input of a block is halved in height and width, goes through a convolution of two groups with
ReLU and through a 1x1 convolution, is brought to the size of the block's output and added to it.
The last weights are zero at first, so that a network with modules computes what it did without.

TinyTL normalises inside a module (groups of channels), standardises weights and enlarges maps
bilinearly.  Here biases stand for the normalisation, and enlarging repeats pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import Affine, Array, Builder, Graph, Node, Role, rewrite
from kilograd.ops import Add, Concat, Conv, Depthwise, Take, Upsample, Window, WindowPool
from kilograd.ops._common import INT8, Clamping

_HALF = 2  # pixels a side of a square that becomes one
_GROUPS = 2
_WIDEST_KERNEL = 5
_DEVIATIONS = 4  # of random weights, that int8 holds
_LAYERS = (Conv, Depthwise)


@dataclass(frozen=True)
class Block:
    """A mobile block: an expansion, if any, a depthwise layer, a projection; a sum, if residual.

    `begin` is the tensor it reads, `end` the one it makes.
    """

    name: str
    layers: tuple[Node, ...]
    begin: Node
    end: Node

    @property
    def stride(self) -> tuple[int, int]:
        """By how much the block makes maps smaller, down and across."""
        strides = [n.op.window.stride for n in self.layers if isinstance(n.op, _LAYERS)]
        return math.prod(s[0] for s in strides), math.prod(s[1] for s in strides)

    @property
    def expansion(self) -> Node | None:
        """The first of its layers where that is a 1x1 convolution in front of the depthwise one."""
        return self.layers[0] if len(self.layers) == 3 else None

    @property
    def most_groups(self) -> int:
        """Into how many groups the expansion may be cut; or into a divisor of that.  0: there is
        none.
        """
        n = self.expansion
        return math.gcd(self.begin.type.shape[2], n.type.shape[2]) if n else 0

    @property
    def largest_rank(self) -> int:
        """The rank that an update of the expansion's weights can have; 0: there is none, or its
        input has the scale of a ReLU, in which no map below zero has a code.
        """
        n, x = self.expansion, self.begin.type
        return min(x.shape[2], n.type.shape[2]) if n and x.affine.zero_point > -128 else 0

    @property
    def takes_module(self) -> bool:
        """Whether a module fits: two groups, and maps that halve, stride and double exactly."""
        return self.begin.type.shape[2] >= _GROUPS and all(
            size % (_HALF * stride) == 0 and size // stride == out
            for size, stride, out in zip(
                self.begin.type.shape[:2], self.stride, self.end.type.shape[:2], strict=True
            )
        )


def mobile_blocks(graph: Graph) -> tuple[Block, ...]:
    """Return the blocks of a network in order: a depthwise layer each, and what belongs to it."""
    users = graph.users()

    def only_user(n: Node) -> Node | None:
        return users[n][0] if len(users[n]) == 1 else None

    blocks = []
    for dw in graph.nodes:
        projection = only_user(dw)
        if not isinstance(dw.op, Depthwise) or projection is None or not _pointwise(projection):
            continue
        before = dw.inputs[0]
        expanded = _pointwise(before) and only_user(before) is dw
        begin = before.inputs[0] if expanded else before
        total = only_user(projection)
        residual = total is not None and isinstance(total.op, Add) and begin in total.inputs
        blocks.append(
            Block(
                projection.name.rpartition(".")[0] or projection.name,
                (*([before] if expanded else []), dw, projection),
                begin,
                total if residual and total is not None else projection,
            )
        )
    return tuple(blocks)


def _pointwise(n: Node) -> bool:
    return isinstance(n.op, Conv) and n.inputs[1].type.shape[1:3] == (1, 1)


def lite_residual(graph: Graph, blocks: Sequence[Block]) -> tuple[Graph, tuple[str, ...]]:
    """Return the network with a module beside each block, and the names of the layers in them.

    Parameters of a module are called BLOCK.lite.group0.weight, BLOCK.lite.out.bias and so on; what
    they hold first depends on nothing but the block's name and shapes.
    """
    beside = {block.end.name: block for block in blocks}
    made: dict[str, Node] = {}
    new: list[str] = []

    def rule(b: Builder, n: Node) -> Node:
        made[n.name] = b.append(n)  # no type changes: a sum has the type of the block's output
        if n.name in beside:
            block, first = beside[n.name], len(b.nodes)
            made[n.name] = _with_module(b, block, made[block.begin.name], n)
            new.extend(x.name for x in b.nodes[first:] if isinstance(x.op, Conv))
        return made[n.name]

    return rewrite(graph, rule), tuple(new)


def _with_module(b: Builder, block: Block, x: Node, y: Node) -> Node:
    """Append the module that reads `x`, and its sum with `y`."""
    name = f"{block.name}.lite"
    rng = np.random.default_rng(list(name.encode()))
    small = b(WindowPool(_HALF), x, name=f"{name}.pool")
    side, channels = min(small.type.shape[:2]), small.type.shape[2]
    kernel = min(_WIDEST_KERNEL, side - 1 + side % 2)  # odd, and no wider than the map
    window = replace(Window.same(kernel), stride=block.stride)
    cut = channels // _GROUPS
    groups = [tuple(range(cut)), tuple(range(cut, channels))]
    halves = []
    for i, own in enumerate(groups):
        part = b(Take(2, own), small, name=f"{name}.part{i}")
        fan = len(own) * kernel**2
        deviation = math.sqrt(2 / fan)  # He: behind ReLU, the mean square of the input comes again
        start = rng.normal(0, deviation, (len(own), kernel, kernel, len(own)))
        # Before ReLU it is twice that.  So with a range sqrt(2) times that of the input (127 codes)
        # in 255 codes, as few values are clipped as there; and no images are needed to say so.
        scale = x.type.affine.scale[0] * math.sqrt(2) * 127 / 255
        halves.append(
            layer_of(
                b, f"{name}.group{i}", part, (window, Affine((scale,), -128)), start, deviation
            )
        )
    middle = b(Concat(), *halves, name=f"{name}.join")
    out = Affine(y.type.affine.scale)  # the scale of the block: the sum is exact
    # These weights are zero, but int8 must hold what may become of them: as above, weights that
    # give the mean square of the block's output, if maps fill their ranges alike.
    deviation = y.type.affine.scale[0] / x.type.affine.scale[0] / math.sqrt(channels)
    start = np.zeros((y.type.shape[2], 1, 1, channels))
    small = layer_of(b, f"{name}.out", middle, (Window(), out), start, deviation)
    large = b(Upsample((_HALF, _HALF)), small, name=f"{name}.large")
    limits = y.op.limits if isinstance(y.op, Clamping) else INT8  # the activation of the block
    return b(Add(y.type.affine, limits=limits), y, large, name=f"{name}.add")


def layer_of(
    b: Builder, name: str, x: Node, how: tuple[Window, Affine], start: Array, deviation: float
) -> Node:
    """Append a convolution whose real weights are `start`, and can be `_DEVIATIONS` as large."""
    window, out = how
    scale = _DEVIATIONS * deviation / 127
    codes = np.clip(np.rint(start / scale), -127, 127).astype(np.int8)
    scales = (scale,) * len(codes)
    weight = b.param(f"{name}.weight", codes, Affine(scales, axis=0), role=Role.WEIGHT)
    unit = x.type.affine.scale[0]
    zeros = np.zeros(len(codes), np.int32)
    bias = b.param(f"{name}.bias", zeros, Affine(scales, axis=0, unit=unit), role=Role.BIAS)
    return b(Conv(window, out), x, weight, bias, name=name)
