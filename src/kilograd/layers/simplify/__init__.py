"""A network of a file made plain: one pass a file, `simplify` runs them.

Passes keep what is computed: reals but for rounding, codes exactly.  Layers keep their names.
"""

from __future__ import annotations

from kilograd.layers.network import Network
from kilograd.layers.simplify.branches import merge_branches
from kilograd.layers.simplify.clamps import merge_clamps
from kilograd.layers.simplify.constants import fold_constants
from kilograd.layers.simplify.curves import recognise_curves
from kilograd.layers.simplify.dead import drop_dead
from kilograd.layers.simplify.edges import drop_edges
from kilograd.layers.simplify.layout import channels_last
from kilograd.layers.simplify.means import merge_means
from kilograd.layers.simplify.pads import fold_pads
from kilograd.layers.simplify.scales import fold_scales, name_scales, scales_to_convolutions
from kilograd.layers.simplify.zero_channels import rescale_zero_channels

_PASSES = (
    drop_edges,
    recognise_curves,
    merge_means,
    fold_pads,
    name_scales,
    fold_scales,
    merge_branches,
    merge_clamps,
    drop_dead,
)


def simplify(network: Network) -> Network:
    """Return a network of few kinds of layers in `Layout.CHANNELS_LAST` that computes the same.

    Its inputs are those of the file, as `Network.taken` says; its outputs lack a last softmax.
    """
    network = drop_dead(channels_last(fold_constants(network)))
    before = None
    while network is not before:
        before = network
        for change in _PASSES:
            network = change(network)
    return rescale_zero_channels(merge_clamps(scales_to_convolutions(network)))


__all__ = ["simplify"]
