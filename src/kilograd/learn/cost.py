"""What training costs, by the convention of your choice."""

from __future__ import annotations

import enum

from kilograd import ops
from kilograd.emit import Program
from kilograd.errors import InputError
from kilograd.frontend import Model
from kilograd.learn.recipe import Recipe, compile_recipe
from kilograd.plan import STAMP_BYTES, aligned
from kilograd.select import Budget, Evidence, strategy
from kilograd.select.cost import Cost, Macs, Memory, full_train, layers, tinytrain, tte

_DX = (ops.ConvInputGrad, ops.DepthwiseInputGrad, ops.DenseInputGrad, ops.CosineInputGrad)


class Convention(enum.StrEnum):
    """How cost is counted: by the formulas of a paper, or as it is."""

    TINYTRAIN = "tinytrain"
    TTE = "tte"
    KILOGRAD = "kilograd"


def count(model: Model, recipe: Recipe, convention: Convention) -> Cost:
    """Return what learning by a recipe costs.

    The formulas know its method only; TinyTrain's give `full` as the FullTrain of the paper.
    Raises `InputError` for a method that does not fit the network or the convention, and for a
    head or an optimiser that a formula would ignore.
    """
    if convention is Convention.KILOGRAD:
        return planned(compile_recipe(model, recipe, Budget()).program)
    if recipe != Recipe(recipe.method, recipe.ways):
        raise InputError(
            f"--convention {convention}: has a head and an optimiser of its own; leave out --head "
            f"and --optimizer, or use --convention kilograd"
        )
    evidence = Evidence(model.name, model.graph, model.layers)
    network = layers(evidence)
    selection = strategy(recipe.method)(evidence, Budget())
    if convention is Convention.TTE:
        return tte(network, selection)
    if recipe.method == "full":
        return full_train(network)
    return tinytrain(network, selection)


def planned(program: Program) -> Cost:
    """Return what a compiled program needs: RAM, which is all but the stack, and MACs.

    `buffers` is the arena: it has everything for the time of a call, saved maps and masks too.
    The head is counted in both.  Layers that are run again for the backward pass are forward
    work.  A program that does not train costs its inference.
    """
    held = dict.fromkeys(("weight", "bias", "optimizer", "head"), 0)
    for slot in program.state:
        held[_holds(slot.name)] += aligned(slot.value.nbytes)
    memory = Memory(
        total=program.sram_bytes,
        buffers=program.arena_bytes,
        weights=held["weight"],
        biases=held["bias"],
        optimizer=held["optimizer"],
        head=held["head"],
        stamp=STAMP_BYTES if program.state else 0,
    )
    entry = program.entries.get("step", program.entries["infer"])
    macs = {n: n.op.macs(n) for n in entry.graph.nodes}
    dx = sum(m for n, m in macs.items() if isinstance(n.op, _DX))
    # Every gradient of weights is computed by the update that reads it.
    dw = sum(m for n, m in macs.items() if isinstance(n.op, ops.RowUpdate))
    return Cost(memory, Macs(sum(macs.values()) - dx - dw, dx, dw))


def _holds(slot: str) -> str:
    """Say what a parameter of the state is: sums of gradients belong to the optimiser."""
    *_, kind = slot.removesuffix(".learned").split(".")
    if kind.startswith("state") or kind == "sum":
        return "optimizer"
    return "head" if slot.startswith("head.") else kind
