"""From a schedule to buffers with lifetimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kilograd.ir import Graph, Input, Leaf, Node, Param, StreamedInput, apart
from kilograd.memory import Buffer


@dataclass(frozen=True)
class Storage:
    """The buffers of a graph and which of them holds each node's tensor and scratch memory."""

    buffers: tuple[Buffer, ...]
    tensor: Mapping[Node, str]
    scratch: Mapping[Node, str]


def store(graph: Graph, *, in_place: bool = True) -> Storage:
    """Give every computed tensor a buffer, shared where an op may overwrite an input.

    Parameters have their own memory; what is returned lives until the end; inputs live from the
    start.  A buffer for scratch memory lives for one step.  Unless `in_place`, nothing is shared.
    """
    last = dict.fromkeys(graph.nodes, 0)
    for i, n in enumerate(graph.nodes):
        last[n] = max(last[n], i)
        if not n.op.view:
            for x in n.reads():
                last[x] = max(last[x], i)
    end = len(graph.nodes)
    last.update({n.holder: end for n in graph.outputs})

    names = {n.name for n in graph.nodes}
    buffers: dict[str, Buffer] = {}
    tensor: dict[Node, str] = {}
    scratch: dict[Node, str] = {}
    for i, n in enumerate(graph.nodes):
        if n.holder is not n and n.holder in tensor:
            tensor[n] = tensor[n.holder]
        if isinstance(n.op, Param | StreamedInput) or n.op.view:
            continue
        if not isinstance(n.op, Leaf) and (size := n.op.kernel(n).scratch):
            scratch[n] = apart(f"{n.name} scratch", names)
            buffers[scratch[n]] = Buffer(scratch[n], size, i, i + 1)
        if n.op.writes:
            continue
        free = _free_after(n, i, last, tensor) if in_place else []
        taken = next(iter(free), None)
        if taken is not None:
            name = tensor[taken]
            buffers[name] = replace(buffers[name], last=last[n] + 1)
        else:
            name = n.name
            first = 0 if isinstance(n.op, Input) else i
            buffers[name] = Buffer(name, n.type.nbytes, first, last[n] + 1)
        tensor[n] = name
    return Storage(tuple(buffers.values()), tensor, scratch)


def _free_after(
    n: Node, i: int, last: Mapping[Node, int], tensor: Mapping[Node, str]
) -> list[Node]:
    """Return the inputs whose buffer `n` may take over."""
    inputs = [n.inputs[k] for k in n.op.overwrites]
    candidates = [x.holder for x in inputs if x.type.shape == n.type.shape]
    return [
        x for x in candidates if x in tensor and last[x] == i and x.type.nbytes == n.type.nbytes
    ]
