"""Networks of PyTorch: exported programs, in files and of modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.frontend.torch_export.archive import read_program
from kilograd.frontend.torch_export.program import Program
from kilograd.frontend.torch_export.state import save_state_dict, state_dict
from kilograd.frontend.torch_export.translate import translated
from kilograd.ir import Array
from kilograd.layers import evaluate
from kilograd.layers.network import Network, Value

if TYPE_CHECKING:
    import torch

__all__ = [
    "Program",
    "intermediates",
    "network_of",
    "program_from",
    "read_program",
    "read_pt2",
    "save_state_dict",
    "state_dict",
    "translated",
]


def read_pt2(path: Path) -> Network:
    """Return the network of a `.pt2` file, what `torch.export.save` writes.

    Nothing of the file is executed, and PyTorch is not needed.  Raises `InputError` for a file
    that cannot be read, and with all operators that cannot be layers.
    """
    return translated(read_program(path))


def network_of(
    module: torch.nn.Module | torch.export.ExportedProgram, *examples: object
) -> Network:
    """Return the network of a module or an exported program, as `program_from` and `translated`."""
    return translated(program_from(module, *examples))


def program_from(
    module: torch.nn.Module | torch.export.ExportedProgram, *examples: object
) -> Program:
    """Return the program of a module, or of what torch.export.export returns.

    `examples`: what a module is called with, tensors or arrays whose first axis is the batch; for
    an exported program none.  Raises `InputError` for what PyTorch cannot export.
    """
    torch = Extra.TORCH.load("torch", "a network from PyTorch")
    from kilograd.frontend.torch_export import live

    if isinstance(module, torch.export.ExportedProgram):
        return live.program_in(module, _class_name(module))
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{type(module).__name__}: is no torch.nn.Module and no exported program")
    if not examples:
        raise InputError(f"{type(module).__name__}: needs an example, as torch.zeros(1, 3, 96, 96)")
    return live.program_in(live.exported(module, examples), type(module).__name__)


def intermediates(program: Program, inputs: Mapping[str, Array]) -> dict[Value, Array]:
    """Return what PyTorch makes of inputs: a batch for each value of `translated(program)`.

    `inputs`: reals [n, ...] by name.  Values with codes come as int8, others as float32; those that
    PyTorch does not have by themselves, as constants between its calls, are left out.  PyTorch's
    own kernels are called, of operators that are read here;
    nothing else of a file is executed.  Raises `InputError` where PyTorch is missing, and as
    `translated`.
    """
    Extra.TORCH.load("torch", f"{program.file}: comparing with PyTorch")
    from kilograd.frontend.torch_export import live

    network = translated(program)
    found = live.values_of(program, inputs)
    shared = {v: found[v.name].reshape(-1, *v.shape) for v in network.values() if v.name in found}
    return {
        v: evaluate.codes(y, v.quant) if v.quant and y.dtype != np.int8 else y
        for v, y in shared.items()
    }


def _class_name(exported: torch.export.ExportedProgram) -> str:
    """Return the class of the module that was exported."""
    for node in exported.graph.nodes:
        for _, kind in node.meta.get("nn_module_stack", {}).values():
            return str(kind).rpartition(".")[2]
    return "network"
