"""What every network that a reader of other tools' files gives must be."""

from __future__ import annotations

from kilograd.layers.network import Network
from kilograd.layers.shapes import fits


def check_layers(network: Network) -> None:
    """Raise an AssertionError where names are not distinct, orders or shapes not right."""
    made = [v.name for v in network.values()]
    assert len(set(made)) == len(made)
    known = set(network.inputs)
    for layer in network.layers:
        assert known.issuperset(layer.inputs)
        assert fits(layer, network.layout), f"{layer.name} does not fit"
        known.add(layer.output)
    assert known.issuperset(network.outputs)
