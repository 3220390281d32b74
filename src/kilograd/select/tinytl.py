"""TinyTL (Cai et al. 2020), "lite residual + bias": modules beside late blocks, and biases."""

from __future__ import annotations

from kilograd.errors import InputError, option
from kilograd.passes import Part, lite_residual, mobile_blocks
from kilograd.select.selection import Budget, Evidence, Selection, Strategy, bias, biases, weight

BLOCKS = 6
"""How many blocks get a module where nothing else is said."""


def tinytl(k: int) -> Strategy:
    """Lite residual modules beside the last k blocks learn, and the biases of these blocks."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        blocks = mobile_blocks(evidence.graph)
        if not 1 <= k <= len(blocks):
            raise InputError(
                f"{option('method')} tinytl:{k}: {evidence.name} has {len(blocks)} blocks of a "
                f"depthwise layer and a 1x1 layer, {k} cannot get a module"
            )
        chosen = blocks[-k:]
        if odd := [block for block in chosen if not block.takes_module]:
            most = len(blocks) - 1 - blocks.index(odd[-1])
            raise InputError(
                f"{option('method')} tinytl:{k}: no module fits beside {odd[-1].name} of "
                f"{evidence.name}: its input {odd[-1].begin.type} does not halve evenly; "
                + (
                    f"give tinytl:{most}"
                    if most
                    else f"choose another method, or another {option('size')}"
                )
            )
        graph, modules = lite_residual(evidence.graph, chosen)
        own = biases(tuple(n.name for block in chosen for n in block.layers))
        new = [parameter for layer in modules for parameter in (weight(layer), bias(layer))]
        return Selection({**own, **dict.fromkeys(new, Part())}, graph=graph)

    return strategy
