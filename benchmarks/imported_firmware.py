"""What networks of other tools need as firmware that learns: docs/results/studies/imported.md.

    python benchmarks/imported_firmware.py run ROWS.csv FOLDER  # files .tflite, .onnx, .pt2
    python benchmarks/imported_firmware.py torch ROWS.csv       # of torchvision and timm
    python benchmarks/imported_firmware.py table ROWS.csv

Each is compiled with prototypes of five classes and its last two layers learning, and run for two
steps on noise on a Cortex-M7 in an emulator, where it must be the same as here to the bit.
Networks of reals get codes without data, which changes no byte and hardly an instruction.  Appends
a row a network, and goes on where it stopped.  Larger ones than LARGEST are compiled, and not run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rows import append, head, line, lines_of, stored
from script import script

import kilograd
from kilograd.emit import Program
from kilograd.errors import InputError
from kilograd.frontend import Model
from kilograd.frontend.files import SUFFIXES, read_network
from kilograd.frontend.imported import Samples, model_of, sketched
from kilograd.layers.network import Network
from kilograd.layers.simplify import simplify
from kilograd.targets import CORTEX_M7, footprint
from kilograd.targets.measure import measure

LARGEST = 100e6
"""MACs of a forward pass that is run."""
LIMIT = 256 << 10

Named = tuple[str, Network | InputError]
"""A network by its name, or why there is none."""


@dataclass(frozen=True)
class Row:
    """A network; bytes, and instructions in millions where it was run.

    `whole`: how many of its `layers`, the last ones, can learn whole in 256 KB.
    """

    name: str
    layers: int = 0
    parameters: int = 0
    macs: int = 0
    ram: int = 0
    flash: int = 0
    forward: str = ""
    step: str = ""
    exact: str = ""
    whole: int = 0
    why: str = ""


def firmware(name: str, network: Network) -> Row:
    """Compile a network, and run it."""
    try:
        model = model_of(sketched(simplify(network)), Samples(), name, Path(name))
        program = compiled(model, min(2, len(model.layers)))
        need, macs = footprint(program, CORTEX_M7), model.graph.macs()
    except InputError as e:
        return Row(name, why=said(e))
    parameters = sum(p.type.size for p in model.graph.params())
    row = Row(name, len(model.layers), parameters, macs, need.ram_bytes, need.flash_bytes or 0)
    row = replace(row, whole=most_layers(model))
    if macs > LARGEST:
        return row
    found = measure(program, CORTEX_M7, steps=2)
    counts = found.instructions_forward, found.instructions_step
    forward, step = (f"{n / 1e6:.1f}" if n else "" for n in counts)
    return replace(row, forward=forward, step=step, exact="yes" if found.bit_exact else "no")


def compiled(model: Model, count: int) -> Program:
    """Compile a network whose last layers learn."""
    method = f"last:{count}" if count else "none"
    return kilograd.plan(model, method, ways=5, head="proto").program


def most_layers(model: Model) -> int:
    """Return how many last layers can learn whole in 256 KB without the stack."""
    fits, beyond = 0, len(model.layers) + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        program = compiled(model, middle)
        if program.state_bytes + program.arena_bytes <= LIMIT:
            fits = middle
        else:
            beyond = middle
    return fits


def said(error: InputError) -> str:
    """Return why a network is not imported, in a line."""
    first, *rest = str(error).split("\n")
    return "".join((first.rpartition("/")[2], *rest))[:200]


def of_folder(folder: Path) -> Iterator[Named]:
    """Yield the networks of the files in a folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES:
            try:
                yield path.name, read_network(path)
            except InputError as e:
                yield path.name, e


def of_torch() -> Iterator[Named]:
    """Yield the networks of torch_networks.py, with random weights."""
    import torch
    from torch_networks import networks

    from kilograd.frontend.torch_export import network_of

    for source, name, make, shape in networks():
        torch.manual_seed(0)
        try:
            yield f"{source} {name}", network_of(make().eval(), torch.zeros(1, *shape))
        except InputError as e:
            yield f"{source} {name}", e


def run(rows: Path, networks: Iterator[Named]) -> None:
    """Append a row for each network that has none."""
    known = {row.name for row in lines_of(rows, Row)}
    for name, network in networks:
        if name in known:
            continue
        row = Row(name, why=said(network)) if isinstance(network, InputError) else None
        row = row or firmware(name, network)
        append(rows, [row])
        print(name, row.ram or row.why[:80], flush=True)


def table(rows: Path) -> None:
    """Print the rows as Markdown."""
    columns = ("layers", "numbers, k", "MACs, M", "RAM, B", "flash, B")
    ran = ("forward, M instructions", "step, M", "same bits")
    print(head("network", *columns, *ran, "last layers whole in 256 KB", texts=1))
    for row in stored(rows, Row):
        if row.why:
            continue
        size = f"{row.parameters / 1e3:,.1f}", f"{row.macs / 1e6:,.2f}"
        need = f"{row.ram:,}", f"{row.flash:,}"
        done = (row.forward, row.step, row.exact) if row.forward else ("not run", "", "")
        print(line(f"`{row.name}`", f"{row.layers}", *size, *need, *done, f"{row.whole}"))


def main() -> None:
    """Do what the first word says."""
    match sys.argv[1:]:
        case ["run", rows, folder]:
            run(Path(rows), of_folder(Path(folder)))
        case ["torch", rows]:
            run(Path(rows), of_torch())
        case ["table", rows]:
            table(Path(rows))
        case _:
            raise InputError("give run ROWS FOLDER, torch ROWS, or table ROWS")


if __name__ == "__main__":
    script(main)
