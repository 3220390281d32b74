"""Graph to graph, one pass a file."""

from kilograd.passes.calls import ENROLMENT, UPDATE, EntryPoint, Over, Phase
from kilograd.passes.cut import cut
from kilograd.passes.differentiate import differentiate
from kilograd.passes.expansions import grouped, low_rank, merged
from kilograd.passes.fuse import fuse_updates
from kilograd.passes.growth import Growth, GrowthKind, growth_of
from kilograd.passes.heads import Head, Int8Head, LinearHead, PrototypeHead
from kilograd.passes.lite_residual import Block, lite_residual, mobile_blocks
from kilograd.passes.liveness import Storage, store
from kilograd.passes.overflow import AccumulatorError, Bound, accumulator_bounds, narrow_gradients
from kilograd.passes.prune import push_takes
from kilograd.passes.ranges import LimitError, check_ranges
from kilograd.passes.recompute import recompute
from kilograd.passes.resize import resize
from kilograd.passes.schedule import schedule
from kilograd.passes.snapshot import snapshot_weights
from kilograd.passes.split import Part, split
from kilograd.passes.stream import StreamError, choose_streams, stream
from kilograd.passes.training import Training, entries, inspection

__all__ = [
    "ENROLMENT",
    "UPDATE",
    "AccumulatorError",
    "Block",
    "Bound",
    "EntryPoint",
    "Growth",
    "GrowthKind",
    "Head",
    "Int8Head",
    "LimitError",
    "LinearHead",
    "Over",
    "Part",
    "Phase",
    "PrototypeHead",
    "Storage",
    "StreamError",
    "Training",
    "accumulator_bounds",
    "check_ranges",
    "choose_streams",
    "cut",
    "differentiate",
    "entries",
    "fuse_updates",
    "grouped",
    "growth_of",
    "inspection",
    "lite_residual",
    "low_rank",
    "merged",
    "mobile_blocks",
    "narrow_gradients",
    "push_takes",
    "recompute",
    "resize",
    "schedule",
    "snapshot_weights",
    "split",
    "store",
    "stream",
]
