"""What is computed once for each sample, and what in every step.

Layers in front of everything that learns give the same maps for the same image for ever.  A cut
makes two programs of a network: the *prefix* leaves a few maps, the *latent*, and the *suffix* goes
on from there.  Whoever keeps latents needs neither the images nor the prefix again.

How far off: the exchange rate of bytes and work is a choice, not a measurement.  For MCUNet and
`sparse-49kb` a quarter of the bytes of the last possible cut are kept, for 3 % of its work in every
step (docs/decisions/0016-latents.md); who knows what bytes are worth could choose better.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from kilograd.ir import Builder, Graph, Input, Leaf, Node, dead_code, rewrite


def cut(network: Graph, learned: Collection[str]) -> tuple[Graph, Graph] | None:
    """Return the prefix of a network, which leaves a latent, and the suffix, which begins with it.

    The parameters in `learned` change, so what depends on them belongs to the suffix.  Of all cuts
    before, the one with the least product of latent bytes and suffix MACs is taken: often a map
    between two blocks in place of a wide one inside, for a little more work.
    A tensor of the latent has one name on both sides, in C too.  None for a network that learns
    from its first layer on.
    """
    cuts = _cuts(network, learned)
    if not cuts:
        return None
    prefix, latent = min(cuts, key=lambda c: _price(network, *c))
    called = {n.name: f"latent{i}" for i, n in enumerate(latent)}

    def left(b: Builder, n: Node) -> Node | None:
        return b.append(replace(n, c_name=called[n.name])) if n.name in called else None

    def given(b: Builder, n: Node) -> Node | None:
        if n.name not in called:
            return None
        return b.append(replace(n, op=Input(), inputs=(), c_name=called[n.name]))

    front = replace(network, nodes=tuple(n for n in network.nodes if n in prefix), outputs=latent)
    return dead_code(rewrite(front, left)), dead_code(rewrite(network, given))


def _cuts(
    network: Graph, learned: Collection[str]
) -> list[tuple[frozenset[Node], tuple[Node, ...]]]:
    """Return, for each frozen layer, everything up to it, and what is read behind it."""
    users = network.users()
    changing: set[Node] = set()
    done: set[Node] = set()
    cuts = []
    for n in network.nodes:
        if n.name in learned or any(x in changing for x in n.inputs):
            changing.add(n)
            continue
        done.add(n)
        maps = [x for x in network.nodes if x in done and _is_computed(x)]
        latent = tuple(
            x for x in maps if x in network.outputs or any(u not in done for u in users[x])
        )
        if _is_computed(n) and not any(isinstance(x.op, Input) for x in latent):
            cuts.append((frozenset(done), latent))
    return cuts


def _is_computed(n: Node) -> bool:
    """Say whether a node is the image, or made of it: no parameter."""
    return isinstance(n.op, Input) or not isinstance(n.op, Leaf)


def _price(network: Graph, prefix: frozenset[Node], latent: tuple[Node, ...]) -> tuple[int, int]:
    """Return bytes times work, and the bytes where there is no work."""
    size = sum(n.type.nbytes for n in latent)
    return size * sum(n.op.macs(n) for n in network.nodes if n not in prefix), size
