"""What needs PyTorch: programs of modules, and what a program computes there, call by call."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from kilograd.errors import InputError
from kilograd.frontend.torch_export.archive import program_of
from kilograd.frontend.torch_export.program import Argument, Call, Other, Program, Ref
from kilograd.frontend.torch_export.translate import read_here
from kilograd.ir import Array


def exported(module: torch.nn.Module, examples: Iterable[object]) -> torch.export.ExportedProgram:
    """Return the exported program of a module.

    `examples`: what it is called with, tensors or arrays, each with the axis of the batch.  Raises
    `InputError` where PyTorch cannot export it.
    """
    name = type(module).__name__
    try:
        given = tuple(torch.as_tensor(x) for x in examples)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"{name}: the example is neither a tensor nor a tuple of them") from e
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.export.export(module, given)
    except Exception as e:  # the module's own code may raise anything
        line = next(iter(str(e).strip().splitlines()), "")
        raise InputError(
            f"{name}: torch.export.export cannot export it ({type(e).__name__}: {line[:300]}); "
            f"see whether it runs with the example, and has no control flow on values"
        ) from e


def program_in(exported: torch.export.ExportedProgram, name: str) -> Program:
    """Return an exported program as plain data: through its file's form, so as from a file."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.export.save(exported, buffer)
    except Exception as e:  # operators that PyTorch has no form for raise what they like
        line = next(iter(str(e).strip().splitlines()), "")
        raise InputError(
            f"{name}: PyTorch cannot write its exported program ({type(e).__name__}: {line[:300]})"
        ) from e
    return program_of(buffer.getvalue(), name, name)


def values_of(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what PyTorch computes: every tensor of the program that has a batch, by name.

    `inputs`: [n, ...] by name.  Calls go to PyTorch's own kernels, and only operators that are read
    here are called.  A program for a batch of fixed length computes as many at once.
    """
    count = len(next(iter(inputs.values())))
    length = program.tensors[program.inputs[0]].shape[0] or count
    parts = []
    for begin in range(0, count, length):
        rows = np.minimum(np.arange(begin, begin + length), count - 1)  # the last again, to fill up
        part = {n: np.array(inputs[n][rows], np.float32) for n in program.inputs}
        parts.append(_computed(program, part, length))
    return {n: np.concatenate([p[n] for p in parts])[:count] for n in parts[0]}


def _computed(program: Program, inputs: Mapping[str, Array], length: int) -> dict[str, Array]:
    env: dict[str, object] = {
        n: torch.from_numpy(np.array(s.array)) for n, s in program.stored.items()
    }
    env |= {n: torch.from_numpy(x) for n, x in inputs.items()}
    found = {n: np.array(x) for n, x in inputs.items()}
    with torch.no_grad():
        for call in program.calls:
            made = _called(call, env)
            results = list(made) if isinstance(made, list | tuple) else [made]
            env |= dict(zip(call.outputs, results, strict=False))
            for n, x in zip(call.outputs, results, strict=False):
                if isinstance(x, torch.Tensor) and _of_images(x, length):
                    found[n] = x.numpy().copy()  # the next call may overwrite it
    return found


def _of_images(x: torch.Tensor, length: int) -> bool:
    """Tell whether a result is a tensor of reals or codes with a batch."""
    if x.dtype not in {torch.float32, torch.int8}:
        return False
    return bool(x.ndim) and len(x) == length


def _called(call: Call, env: Mapping[str, object]) -> object:
    library, name, overload = call.target.split(".")
    if not read_here(call):
        raise InputError(f"{call.path}.{call.name}: {call.operator} is not called here")
    if library == "quantized_decomposed":
        return _recoded(name, {k: _value(k, x, env) for k, x in call.arguments.items()})
    operator = getattr(getattr(torch.ops.aten, name), overload)
    given = {k: _value(k, x, env) for k, x in call.arguments.items() if not isinstance(x, Other)}
    return operator(**given)


def _recoded(name: str, given: Mapping[str, Any]) -> torch.Tensor:
    """Quantise or dequantise as PyTorch defines it; its library of them is not always loaded."""
    x = given["input"]
    if name == "quantize_per_tensor":
        codes = torch.round(x * (1.0 / given["scale"])) + given["zero_point"]
        return torch.clamp(codes, given["quant_min"], given["quant_max"]).to(torch.int8)
    if name == "dequantize_per_tensor":
        return (x.to(torch.float32) - given["zero_point"]) * given["scale"]
    along = (-1, *(1,) * (x.ndim - 1))
    zeros, scales = given["zero_points"].reshape(along), given["scales"].reshape(along)
    return (x.to(torch.float32) - zeros) * scales


def _value(name: str, argument: Argument, env: Mapping[str, object]) -> object:
    match argument:
        case Ref(ref):
            return env[ref]
        case tuple():
            return [_value(name, x, env) for x in argument]
        case str() if name == "dtype":
            return getattr(torch, argument)
    return argument
