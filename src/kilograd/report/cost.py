"""What training costs: as compiled, or by the formulas of two papers (`select/cost.py`)."""

from __future__ import annotations

from kilograd import ops
from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.frontend import Model
from kilograd.ir import Role
from kilograd.learn.recipe import compile_recipe
from kilograd.memory import STAMP_BYTES, aligned
from kilograd.options import values
from kilograd.passes import EntryPoint
from kilograd.select import Budget, Evidence, strategy
from kilograd.select.cost import (
    Convention,
    Cost,
    Macs,
    Memory,
    full_train,
    layers,
    tinytrain,
    tte,
)
from kilograd.settings import Recipe

_DX = (
    ops.ConvInputGrad,
    ops.DepthwiseInputGrad,
    ops.GroupedInputGrad,
    ops.DenseInputGrad,
    ops.CosineInputGrad,
)


def count(model: Model, recipe: Recipe, convention: Convention) -> Cost:
    """Return what learning by a recipe costs.

    The formulas know its method only; TinyTrain's give `full` as the FullTrain of the paper.
    Raises `InputError` for a method that does not fit the network or the convention, and for a
    head or an optimiser that a formula would ignore.
    """
    if convention is Convention.KILOGRAD:
        return planned(compile_recipe(model, recipe, Budget()).program)
    usual = values(Recipe(recipe.method, recipe.ways))
    if own := [name for name, value in values(recipe).items() if value != usual[name]]:
        raise InputError(
            f"{option('convention')} {convention}: the formulas know the method alone; leave out "
            f"{' and '.join(map(option, own))}, or use {option('convention')} kilograd"
        )
    evidence = Evidence(model.name, model.graph, model.layers)
    selection = strategy(recipe.method)(evidence, Budget())
    network = layers(evidence, selection.graph)
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
    held = dict.fromkeys(Role, 0)
    for slot in program.state:
        held[slot.role] += aligned(slot.value.nbytes)
    memory = Memory(
        total=program.sram_bytes,
        buffers=program.arena_bytes,
        weights=held[Role.WEIGHT],
        biases=held[Role.BIAS],
        optimizer=held[Role.OPTIMIZER],
        head=held[Role.HEAD],
        stamp=STAMP_BYTES if program.state else 0,
    )
    entry = program.entries.get(EntryPoint.STEP, program.entries[EntryPoint.INFER])
    macs = {n: n.op.macs(n) for n in entry.graph.nodes}
    dx = sum(m for n, m in macs.items() if isinstance(n.op, _DX))
    # Every gradient of weights is computed by the update that reads it.
    dw = sum(m for n, m in macs.items() if isinstance(n.op, ops.RowUpdate))
    return Cost(memory, Macs(sum(macs.values()) - dx - dw, dx, dw))
