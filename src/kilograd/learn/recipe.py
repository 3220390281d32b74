"""A method, a head and an optimiser, compiled for a network."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from kilograd.emit import Program, link
from kilograd.errors import InputError, option
from kilograd.frontend import Model
from kilograd.ir import Graph, Role
from kilograd.memory import exact, greedy
from kilograd.ops import Adam, ElementRule, Momentum, RowRms, Sgd, Update
from kilograd.passes import (
    AccumulatorError,
    EntryPoint,
    Head,
    Int8Head,
    LimitError,
    LinearHead,
    PrototypeHead,
    StreamError,
    Training,
    entries,
)
from kilograd.select import (
    Budget,
    Demand,
    Evidence,
    Inspect,
    RamError,
    Selection,
    strategy,
)
from kilograd.select.cost import backward_memory
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.sizes import spelled

_log = logging.getLogger(__name__)


_OPTIMIZERS: Mapping[OptimizerKind, Update] = {
    OptimizerKind.SGD: Sgd(0),
    OptimizerKind.MOMENTUM: Momentum(0),
    OptimizerKind.ROWRMS: RowRms(0),
    OptimizerKind.ADAM: Adam(0),
}
"""With QAS."""


@dataclass(frozen=True)
class Compiled:
    """A program and what it came from.

    `network` is as it was given, `model` has the modules that the method adds.
    """

    network: Model = field(repr=False)
    model: Model = field(repr=False)
    recipe: Recipe
    training: Training = field(repr=False)
    program: Program = field(repr=False)
    selection: Selection = field(repr=False)

    @property
    def backward_macs(self) -> int:
        """Multiply-accumulates of a backward pass: what a step has more than inference."""
        return demand(self.program).backward_macs

    @property
    def backward_memory(self) -> int | None:
        """Bytes of a backward pass as TinyTrain counts them; `None` where only biases learn."""
        if not self.network.layers or _learns_biases_alone(self.selection):
            return None
        return _backward_memory(self.network, self.selection)

    @property
    def latent_bytes(self) -> int:
        """Bytes to keep for a sample in place of its image; 0 without a cut."""
        entry = self.program.entries.get(EntryPoint.PREFIX)
        return sum(n.type.nbytes for n in entry.graph.outputs) if entry else 0

    @property
    def learned_parameters(self) -> int:
        """Scalars that gradient descent may change."""
        count = 0
        for name, part in self.training.learn.items():
            shape = self.model.graph[name].type.shape
            share = shape[part.axis] if part.index is None else len(part.index)
            count += math.prod(shape) // shape[part.axis] * share
        if self.training.train_head:
            count += sum(
                s.value.size for s in self.program.state if s.name in self.training.head.learned
            )
        return count


def compile_recipe(
    model: Model,
    recipe: Recipe,
    budget: Budget,
    inspect: Inspect | None = None,
    prices: MutableMapping[Hashable, Demand] | None = None,
) -> Compiled:
    """Choose what learns and compile it.

    `prices`: what selections cost in other calls for the same network, with any recipe and budget;
    what this one finds out is added.

    Raises `InputError` for a method that fits neither the network nor the head; for a program
    that is over the budget: the message gives the smallest that would do, and what needs less; and
    for an exact plan where OR-Tools is not installed.
    """
    try:
        return _chosen(model, recipe, budget, inspect, prices)
    except RamError as e:
        less = "".join(_lighter(model, recipe, budget, inspect, e.need))
        raise RamError(f"{e}{less}", e.need, recipe.ways) from e


def _lighter(
    model: Model, recipe: Recipe, budget: Budget, inspect: Inspect | None, need: int
) -> Iterator[str]:
    """Yield which options need less RAM, where a number is kept beside each parameter."""
    if not _keeps(recipe):
        return
    others = {
        f"{option('state_bits')} 8": replace(recipe, state_bits=8),
        f"{option('optimizer')} sgd": replace(recipe, optimizer=OptimizerKind.SGD),
    }
    for name, other in others.items():
        try:
            least = _chosen(model, other, budget, inspect, None).program.sram_bytes
        except RamError as e:
            least = e.need
        except InputError:  # of another kind: no way out
            continue
        if least < need:
            yield f"; with {name} it is {least}"


def _keeps(recipe: Recipe) -> bool:
    """Return whether a number is kept beside each parameter that learns."""
    return recipe.accumulate > 1 or isinstance(_OPTIMIZERS[recipe.optimizer], ElementRule)


def _chosen(
    model: Model,
    recipe: Recipe,
    budget: Budget,
    inspect: Inspect | None,
    prices: MutableMapping[Hashable, Demand] | None,
) -> Compiled:
    known: dict[tuple[object, ...], Program] = {}
    prices = {} if prices is None else prices

    def compiled(selection: Selection) -> Program:
        """Compile each selection once."""
        nodes = selection.graph and selection.graph.nodes
        key = (*sorted(selection.learn.items()), selection.head, nodes)
        if key not in known:
            known[key] = _linked(
                _grown(model, selection), recipe, _training(model, recipe, selection)
            )
        return known[key]

    def cost(selection: Selection) -> Demand:
        key = _priced_by(recipe, selection)
        if recipe.exact or key not in prices:  # a search may end elsewhere the next time
            prices[key] = demand(compiled(selection))
        return prices[key]

    evidence = Evidence(model.name, model.graph, model.layers, cost, inspect)
    selection = strategy(recipe.method)(evidence, budget)
    grown, program = _grown(model, selection), compiled(selection)
    _check_memory(model, recipe, budget, selection)
    _check(grown, recipe, budget, selection, program)
    made = Compiled(model, grown, recipe, _training(model, recipe, selection), program, selection)
    _log.debug(
        "method %s on %s: %d parameters learn, %d bytes of RAM; programs compiled to choose: %d",
        recipe.method,
        model.name,
        made.learned_parameters,
        program.sram_bytes,
        len(known),
    )
    return made


def compile_program(
    model: Model, recipe: Recipe, budget: Budget, inspect: Inspect | None = None
) -> Compiled:
    """Choose what learns and compile it, as `compile_recipe`, for one program.

    Raises `InputError` for a cache that saves nothing, too: only a comparison has a use for it.
    """
    compiled = compile_recipe(model, recipe, budget, inspect)
    check_cache(compiled)
    return compiled


def check_cache(compiled: Compiled) -> None:
    """Raise `InputError` for a cache that saves nothing."""
    recipe, name = compiled.recipe, compiled.network.name
    if recipe.cache and EntryPoint.PREFIX not in compiled.program.entries:
        raise InputError(
            f"{option('cache')} {recipe.cache}: method {recipe.method} on {name} learns "
            "from the first layer on, so no work can be kept; leave the option away, or choose a "
            "method that learns in fewer layers"
        )


def compile_selection(model: Model, recipe: Recipe, selection: Selection) -> Compiled:
    """Compile what was chosen before; raises `InputError` as `lowered`.

    The method of the recipe chooses nothing here.
    """
    grown, training = _grown(model, selection), _training(model, recipe, selection)
    return Compiled(model, grown, recipe, training, _linked(grown, recipe, training), selection)


def lowered(model: Model, recipe: Recipe, selection: Selection) -> Mapping[str, Graph]:
    """Return the entry points of a program, scheduled; their memory is not planned yet.

    The method of the recipe chooses nothing here.  Raises `InputError` for a selection that fits
    neither the network nor the head.
    """
    return _lowered(_grown(model, selection), recipe, _training(model, recipe, selection))


def linked(model: Model, recipe: Recipe, selection: Selection) -> Program:
    """Return the program of a selection; raises `InputError` as `lowered`."""
    return _linked(_grown(model, selection), recipe, _training(model, recipe, selection))


def demand(program: Program) -> Demand:
    """Return what a program costs."""
    step = program.macs(EntryPoint.PREFIX) + program.macs(EntryPoint.STEP)
    backward = step - program.macs(EntryPoint.INFER) if EntryPoint.STEP in program.entries else 0
    return Demand(program.sram_bytes, backward)


def _priced_by(recipe: Recipe, selection: Selection) -> Hashable:
    """Return what decides the cost of a program: how many channels learn, and not which.

    Shapes, schedule and plan know counts alone.  Channels make themselves felt in tables of
    constants and in how many bits a mantissa may use, of the 16 it has.
    """
    parts = sorted(
        (parameter, part.axis, None if part.index is None else len(part.index))
        for parameter, part in selection.learn.items()
    )
    nodes = selection.graph and selection.graph.nodes
    return replace(recipe, method="", head=recipe.head_kind), (*parts,), selection.head, nodes


def _backward_memory(network: Model, selection: Selection) -> int:
    return backward_memory(Evidence(network.name, network.graph, network.layers), selection)


def _learns_biases_alone(selection: Selection) -> bool:
    return {p.role for p in selection.learn} == {Role.BIAS}


def _check_memory(network: Model, recipe: Recipe, budget: Budget, selection: Selection) -> None:
    """Raise `InputError` where a selection is over the memory that TinyTrain counts."""
    limit = budget.backward_memory
    if limit is None:
        return
    what = f"{option('backward_memory')} {spelled(limit)}: method {recipe.method} on {network.name}"
    if _learns_biases_alone(selection):
        raise InputError(
            f"{what} learns biases alone, and TinyTrain's count knows none; use {option('sram')}"
        )
    if (need := _backward_memory(network, selection)) > limit:
        raise InputError(
            f"{what} needs {need} bytes as TinyTrain counts them; the smallest "
            f"{option('backward_memory')} that fits is {need}"
        )


def _check(
    model: Model, recipe: Recipe, budget: Budget, selection: Selection, program: Program
) -> None:
    """Raise `InputError` where a program is over the budget, whatever its strategy thought."""
    method = f"method {recipe.method} on {model.name}"
    if budget.sram is not None and program.sram_bytes > budget.sram:
        need = program.sram_bytes
        beside = sum(s.value.nbytes for s in program.state if s.role is Role.OPTIMIZER)
        own = f", {beside} of it beside parameters that learn" if _keeps(recipe) else ""
        raise RamError(
            f"{option('sram')} {spelled(budget.sram)}: {method} needs {need} bytes "
            f"({program.state_bytes} kept{own}, {program.arena_bytes} working memory); the "
            f"smallest {option('sram')} that fits is {need}",
            need,
            recipe.ways,
        )
    macs = demand(program).backward_macs
    if budget.compute is not None and macs > budget.compute:
        raise InputError(
            f"{option('compute')} {budget.compute}: {method} needs {macs} multiply-accumulates for "
            f"a backward pass; the smallest {option('compute')} that fits is {macs}"
        )
    for parameter, part in selection.learn.items():
        size = model.graph[str(parameter)].type.shape[part.axis]
        count = size if part.index is None else len(part.index)
        weights = parameter.role is Role.WEIGHT
        if weights and budget.channels is not None and count > max(1, budget.channels * size):
            raise InputError(
                f"{option('channels')} {budget.channels}: {method} learns {count} of {size} "
                f"channels of {parameter}; leave the option away, or choose a method that takes "
                "it, as tinytrain"
            )


def _grown(model: Model, selection: Selection) -> Model:
    """Return the network with what the selection adds to it."""
    return model if selection.graph is None else replace(model, graph=selection.graph)


def _training(model: Model, recipe: Recipe, selection: Selection) -> Training:
    return Training(
        head=_head(recipe, selection, model.cosine_scale),
        optimizer=_optimizer(recipe),
        learn=selection.by_name,
        train_head=selection.head,
        accumulate=recipe.accumulate > 1,
        rows=recipe.rows,
        recompute=recipe.recompute,
        cache=recipe.cache > 0,
        sum_bits=recipe.state_bits,
    )


def _optimizer(recipe: Recipe) -> Update:
    rule = replace(_OPTIMIZERS[recipe.optimizer], qas=recipe.qas)
    return replace(rule, state_bits=recipe.state_bits) if isinstance(rule, ElementRule) else rule


def _linked(model: Model, recipe: Recipe, training: Training) -> Program:
    with _refusals(model, recipe):
        return link(entries(model.graph, training), exact if recipe.exact else greedy)


def _lowered(model: Model, recipe: Recipe, training: Training) -> Mapping[str, Graph]:
    with _refusals(model, recipe):
        return entries(model.graph, training)


@contextmanager
def _refusals(model: Model, recipe: Recipe) -> Iterator[None]:
    """Turn what the compiler cannot make of a network into a line on the method."""
    try:
        yield
    except (AccumulatorError, LimitError) as e:
        raise InputError(
            f"{option('method')} {recipe.method} on {model.name}: {e}; choose another method, or a "
            f"smaller {option('size')}"
        ) from e
    except StreamError as e:
        raise InputError(f"{option('rows')}: method {recipe.method} on {model.name}: {e}") from e


def _head(recipe: Recipe, selection: Selection, scale: float) -> Head:
    kind = recipe.head_kind
    if kind is not HeadKind.PROTO:
        if recipe.prototype_gradients:
            raise InputError(
                f"{option('prototype_gradients')}: a linear head has no prototypes; leave it away"
            )
        if not selection.head:
            raise InputError(
                f"{option('head')} {kind}: method {recipe.method} does not train it, and a linear "
                f"head starts at zero; use {option('head')} proto or another method"
            )
        return Int8Head(recipe.ways) if kind is HeadKind.INT8 else LinearHead(recipe.ways)
    if selection.head and not selection.learn:
        raise InputError(
            f"{option('head')} proto: prototypes do not learn by gradient, so method "
            f"{recipe.method} has nothing to learn; use {option('head')} linear, or "
            f"{option('method')} none"
        )
    if recipe.prototype_gradients and recipe.accumulate == 1:
        raise InputError(
            f"{option('prototype_gradients')}: needs one update for the whole support; add "
            f"{option('accumulate')} 1000, or any number that is not smaller than the support"
        )
    return PrototypeHead(
        recipe.ways, scale, exact=recipe.prototype_gradients and bool(selection.learn)
    )
