"""A budget of memory as TinyTrain counts it: all methods keep it, or name the smallest."""

from __future__ import annotations

import math

import pytest
from folders import LAYERS, write_model
from helpers import model_path, needs_shared
from test_strategies import CHOOSING, compiled, invented

from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.report.choice import cost_line
from kilograd.select import Budget, Selection
from kilograd.settings import Limits

FREE = 10**12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small")))


def counted(model: Model, selection: Selection) -> int:
    """Max of the largest layer's maps, and of saved inputs and masks; and 16 bytes a weight."""
    largest = masks = saved = weights = 0
    learning = False
    for name in model.layers:
        node = model.graph[name]
        x, w = (n.type for n in node.inputs[:2])
        depthwise = len(w.shape) == 3
        y = math.prod(node.type.shape)
        largest = max(largest, 4 * (x.size + (y // node.type.shape[2] if depthwise else y)))
        part = selection.by_name.get(f"{name}.weight")
        if part is not None:
            learning = True
            size = w.shape[part.axis]
            count = size if part.index is None else len(part.index)
            weights += w.size // size * count
            taken = count / size if depthwise else 1  # a filter of a depthwise layer reads one map
            saved += int(4 * x.size * taken)
        if learning and (name.endswith((".pw1", ".dw", "stem")) or name == "b0.pw2"):
            masks += y  # ReLUs, and the residual of block 0
    return max(largest, saved + -(-masks // 8)) + 16 * weights


@pytest.mark.parametrize("method", CHOOSING)
def test_a_choice_keeps_the_budget_and_uses_it(small: Model, method: str) -> None:
    inspect = invented(small.graph, 2)
    free = compiled(small, method, Budget(compute=FREE), inspect)
    most = counted(small, free.selection)
    assert free.backward_memory == most
    least = counted(small, Selection())
    for limit in (most, (most + least) // 2, (most + 3 * least) // 4):
        made = compiled(small, method, Budget(compute=FREE, backward_memory=limit), inspect)
        need = counted(small, made.selection)
        assert made.backward_memory == need <= limit
        assert made.learned_parameters > 0
        assert limit != most or made.selection.learn == free.selection.learn
        both = Budget(sram=10**6, compute=FREE, backward_memory=limit)
        assert compiled(small, method, both, inspect).selection == made.selection


@pytest.mark.parametrize("method", CHOOSING)
def test_the_smallest_budget_is_named_and_is_enough(small: Model, method: str) -> None:
    inspect = invented(small.graph, 2)
    with pytest.raises(InputError, match="backward_memory 1: too small for any layer") as caught:
        compiled(small, method, Budget(compute=FREE, backward_memory=1), inspect)
    least = int(str(caught.value).split(" and backward_memory ")[1])
    made = compiled(small, method, Budget(compute=FREE, backward_memory=least), inspect)
    assert counted(small, made.selection) == least
    with pytest.raises(InputError, match=f"backward_memory {least - 1}: too small for any layer"):
        compiled(small, method, Budget(compute=FREE, backward_memory=least - 1), inspect)


def test_a_layer_that_does_not_fit_says_so(small: Model) -> None:
    inspect = invented(small.graph, 2)
    least = counted(small, Selection())
    for method, weights in (("tinytrain", 40), ("knapsack", 9)):
        budget = Budget(compute=FREE, backward_memory=least + 16 * weights)
        made = compiled(small, method, budget, inspect)
        whys = [r.why for r in made.selection.reasons if not r.chosen]
        limit = f"of {budget.backward_memory:,} bytes"
        assert any(w.startswith("backward memory: ") and limit in w for w in whys)
        assert made.selection.within == budget


def test_methods_that_choose_nothing_are_checked(small: Model) -> None:
    need = counted(small, compiled(small, "last", Budget(), None).selection)
    compiled(small, "last", Budget(backward_memory=need), None)
    compiled(small, "none", Budget(backward_memory=need), None)
    with pytest.raises(InputError, match=rf"the smallest backward_memory that fits is {need}$"):
        compiled(small, "last", Budget(backward_memory=need - 1), None)
    assert compiled(small, "bias:3", Budget(), None).backward_memory is None
    with pytest.raises(InputError, match=r"bias:3 on small learns biases alone"):
        compiled(small, "bias:3", Budget(backward_memory=10**6), None)


def test_a_module_of_tinytl_counts(small: Model) -> None:
    need = compiled(small, "tinytl:1", Budget(), None).backward_memory
    assert need is not None
    assert need > counted(small, Selection())
    with pytest.raises(InputError, match="method tinytl:1 on small needs"):
        compiled(small, "tinytl:1", Budget(backward_memory=need - 1), None)


@pytest.mark.parametrize("given", ["0", "-1", "", "abc", "1e6", "1000%", "inf", 12])
def test_what_is_no_budget(small: Model, given: str | int) -> None:
    with pytest.raises(InputError, match=r"^backward_memory "):
        Limits(backward_memory=given).budget(small)


@pytest.mark.parametrize("given", [0, -1])
def test_numbers_that_are_no_budget(given: int) -> None:
    with pytest.raises(InputError, match=f"backward_memory {given}: must be positive"):
        Budget(backward_memory=given)


def test_the_layers_are_those_of_the_small_network(small: Model) -> None:
    assert small.layers == LAYERS


@needs_shared
def test_the_last_layer_of_mcunet_needs_what_table_2_prints() -> None:
    """2.03 MB."""
    made = compiled(load_model(str(model_path("mcunet-5fps"))), "last", Budget(), None)
    assert made.backward_memory is not None
    assert round(made.backward_memory / 2**20, 2) == 2.03


def test_what_a_choice_costs_is_said_with_its_limits(small: Model) -> None:
    made = compiled(small, "static-l2", Budget(backward_memory=10**6), None)
    line = cost_line(made, Budget())
    assert f"{made.backward_memory:,} of 1,000,000 bytes as TinyTrain counts" in line
    assert " MACs for a backward pass" in line
    limit = made.selection.within and made.selection.within.compute
    assert f"of {limit:,} MACs" in line, "the 15 % that hold where nothing is said"
