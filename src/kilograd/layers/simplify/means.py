"""Means of means, and pools as large as their map, become one mean: of float networks."""

from __future__ import annotations

from kilograd.layers.network import UNBOUNDED, Layer, Mean, Network, Pool, PoolKind
from kilograd.layers.simplify.edit import edited, only_user


def merge_means(network: Network) -> Network:
    """Merge the means over one axis each of squeeze-and-excite, and name means of whole maps."""
    user = only_user(network)
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if x.output.quant is not None or x in new:
            continue
        match x.op:
            case Pool(kind=PoolKind.MEAN, kernel=kernel, clamp=clamp, pad=pad):
                whole = kernel == x.inputs[0].shape[:2] and x.output.shape[:2] == (1, 1)
                if whole and clamp == UNBOUNDED and not any(pad):
                    new[x] = (Layer(x.name, Mean((0, 1)), x.inputs, x.output),)
            case Mean(axes):
                after = user.get(x.output)
                if after is not None and isinstance(after.op, Mean) and after not in new:
                    op = Mean(tuple(sorted({*axes, *_before(x, after.op.axes)})))
                    new[x], new[after] = (), (Layer(after.name, op, x.inputs, after.output),)
    return edited(network, new)


def _before(x: Layer, axes: tuple[int, ...]) -> list[int]:
    """Return the axes of what a mean reads for axes of what it gives."""
    assert isinstance(x.op, Mean)  # noqa: S101
    rank = len(x.inputs[0].shape)
    kept = list(range(rank))
    if len(x.output.shape) < rank:
        kept = [a for a in kept if a not in x.op.axes]
    return [kept[a] for a in axes]
