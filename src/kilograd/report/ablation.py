"""What each part of the compiler saves: the training step, built with ever more of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kilograd.emit import Entry
from kilograd.ir import Graph
from kilograd.memory import Plan, greedy, lower_bound, place, validate
from kilograd.passes import (
    EntryPoint,
    Training,
    choose_streams,
    cut,
    entries,
    fuse_updates,
    push_takes,
    schedule,
    snapshot_weights,
    store,
    stream,
)
from kilograd.passes.training import differentiated, learning


@dataclass(frozen=True)
class Variant:
    """A training step built in some way, and in a sentence what is new about it."""

    name: str
    adds: str
    step: Entry


def ablation(network: Graph, training: Training) -> tuple[Variant, ...]:
    """Return the training step from naive to what the compiler makes, one idea more each time.

    All of them compute the same losses and updates and are placed by the same planner.
    Something must learn: a `KeyError` otherwise.
    """
    plain = replace(training, cache=False)
    whole = replace(plain, stream=False, rows=False, recompute=False)
    split, names = learning(network, whole)
    naive = differentiated(split, whole, names, everything=True)
    pruned = push_takes(differentiated(split, whole, names))
    early = "each update as early as the data allows; few bytes alive"
    first = (
        ("naive", "gradients of all parameters, kept until the updates at the end", naive, False),
        ("+ pruned backward", "only what the learned parts need", pruned, False),
        ("+ in place", "a result may take over the memory of an operand", pruned, True),
        ("+ order", early, schedule(pruned), True),
    )
    return (
        *(_variant(name, adds, graph, in_place=new) for name, adds, graph, new in first),
        *_compiled(network, plain, training, cuts=bool(cut(split, names))),
    )


def _compiled(
    network: Graph, plain: Training, training: Training, *, cuts: bool
) -> Iterator[Variant]:
    """Yield the steps that the passes make, from those that all programs have on."""

    def variant(name: str, adds: str, made: Training) -> Variant:
        return _variant(name, adds, entries(network, made)[EntryPoint.STEP])

    whole = replace(plain, stream=False, rows=False, recompute=False)
    yield variant("+ fused updates", "weight gradients row by row, each row used up at once", whole)
    if training.stream:
        streamed = replace(plain, rows=False, recompute=False)
        yield variant("+ streaming", "the largest maps row by row, never whole", streamed)
    if training.rows:
        rows = replace(plain, recompute=False)
        yield variant("+ image by rows", "the image comes row by row from the caller", rows)
    if training.recompute:
        yield variant("+ recomputing", "layers run again in place of maps that wait", plain)
    if training.cache and cuts:
        adds = "begins with what the frozen layers left of the image"
        yield variant("+ cache", adds, training)


def without(network: Graph, training: Training) -> tuple[Variant, ...]:
    """Return the training step as the compiler makes it, each time with one part left out.

    The image is whole in all of them: without some parts it could not come row by row.
    """
    training = replace(training, rows=False)
    split, names = learning(network, training)
    if training.cache and (parts := cut(split, names)):
        _, split = parts
    learned = frozenset(names)
    pruned = push_takes(differentiated(split, training, names))
    unpruned = fuse_updates(differentiated(split, training, names, everything=True))
    ours = entries(network, training)[EntryPoint.STEP]
    whole = entries(network, replace(training, stream=False))[EntryPoint.STEP]

    def streamed(graph: Graph) -> Graph:
        return stream(graph, choose_streams(graph, learned)) if training.stream else graph

    return (
        _variant("without pruning", "gradients of all parameters", streamed(schedule(unpruned))),
        _variant("without in place", "every result in memory of its own", ours, in_place=False),
        _variant(
            "without scheduling",
            "in the order of differentiation",
            streamed(snapshot_weights(fuse_updates(pruned))),
        ),
        _variant(
            "without fused updates",
            "weight gradients whole",
            streamed(schedule(pruned)),
        ),
        _variant("without streaming", "every map whole", whole),
        Variant("without planning", "nothing uses memory again", _piled(ours)),
    )


def _variant(name: str, adds: str, graph: Graph, *, in_place: bool = True) -> Variant:
    storage = store(graph, in_place=in_place)
    return Variant(
        name, adds, Entry(EntryPoint.STEP, graph, storage, place(storage.buffers, greedy))
    )


def _piled(graph: Graph) -> Entry:
    """Give every buffer a place of its own, in the order of first use."""
    storage = store(graph)
    offsets, top = {}, 0
    for b in sorted(storage.buffers, key=lambda b: b.first):
        offsets[b.name] = top
        top += b.room
    plan = Plan(offsets, top, lower_bound(storage.buffers))
    return Entry(EntryPoint.STEP, graph, storage, validate(storage.buffers, plan))
