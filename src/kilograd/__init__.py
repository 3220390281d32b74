"""Train neural networks in kilobytes, in integers.

Where to begin: `ir/graph.py` has the nouns, `ops/elementwise.py` five complete ops, and
CONTRIBUTING.md a path through the rest that takes an hour.  The rooms, in the order in which a
network passes them, and from the simple to what is made of it:

    ir          tensors, nodes, graphs; what they mean, and how they are built
    quant       fixed-point arithmetic, defined once
    ops         all operations, one family a file: meaning, gradient, kernel
    layers      networks as files of other tools describe them: made plain, quantised, lowered
    frontend    networks from files, and back into them
    select      what learns: (evidence, budget) -> selection, one strategy a file
    passes      graph to graph: gradients, sparsity, streams, schedule
    memory      buffers to offsets, proved
    emit        graphs and offsets to C
    boards      what can be bought: RAM, flash, processor, clock, and where each figure is from
    targets     building, running and measuring that C: here, in emulators, in WebAssembly
    data        images, episodes, random views
    settings    all that a person may set, one field an option
    learn       one network learns one task
    study       many tasks: methods compared, rates tuned
    search      what should learn, found from what each part adds
    offline     training in float, with PyTorch, before a device sees the network
    report      pages, and cost as papers count it
    use         what was learned is used: predictions, a test
    importing   networks of other tools become ours
    checking    an imported network beside the runtime of its file
    merging     what was learned goes back into that file
    tuning      rates and other options that suit, for each method
    api         what the commands do, as functions: the names below
    cli         the command line

Imports point down only (pyproject.toml, `importlinter`); docs/design.md says how the rooms fit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kilograd.errors import InputError

if TYPE_CHECKING:
    from kilograd.api import Comparison, adapt, evaluate, export, pictures, plan, pull
    from kilograd.importing import from_file, from_onnx, from_tflite, from_torch
    from kilograd.learn.adapt import Outcome
    from kilograd.learn.adapted import Adapted
    from kilograd.merging import Merged, merge
    from kilograd.settings import Build, Settings
    from kilograd.tuning import Tuning, tune
    from kilograd.use import Prediction, Tested, load_adapted, predict, test

__version__ = "0.1.0"

__all__ = [
    "Adapted",
    "Build",
    "Comparison",
    "InputError",
    "Merged",
    "Outcome",
    "Prediction",
    "Settings",
    "Tested",
    "Tuning",
    "adapt",
    "evaluate",
    "export",
    "from_file",
    "from_onnx",
    "from_tflite",
    "from_torch",
    "load_adapted",
    "merge",
    "pictures",
    "plan",
    "predict",
    "pull",
    "test",
    "tune",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever is asked for
    """Import what the functions need when one is asked for: half a second, and signals first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("kilograd.api"), name)
