"""A network as a table, a line a layer; and what quantising it has cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from kilograd.checking import Checked
from kilograd.cli.console import OUT, Table, say
from kilograd.cli.numbers import in_short
from kilograd.frontend import Arrays, Images, Model, Normalised
from kilograd.ir import Leaf, Node, Param, Role
from kilograd.layers.report import Accuracy, Report

_LISTED = 20
_NAME = 28
"""Characters of a name in a table."""
_SHOWN = 5
"""Layers that a report names: those that lose most."""


@dataclass(frozen=True)
class Line:
    """What a node does: parameters of its own and multiply-accumulates; 0 where it has none.

    `learns`: what of it can learn, in words; empty: nothing.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    learns: str

    def to_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "parameters": self.parameters,
            "macs": self.macs,
            "learns": self.learns,
        }


def lines(model: Model) -> Iterator[Line]:
    """Yield a line for each node that computes something, in the order of execution."""
    for n in model.graph.nodes:
        if isinstance(n.op, Leaf) or n.op.view:
            continue
        own = [x for x in n.inputs if isinstance(x.op, Param) and x.op.role is not Role.CONSTANT]
        kinds = [x.op.role.value for x in own if isinstance(x.op, Param)]
        learns = "yes" if n.name in model.layers else _classifier(model, n, kinds)
        parameters = sum(x.type.size for x in own)
        yield Line(n.name, _kind(n), n.type.shape, parameters, n.op.macs(n), learns)


def _kind(n: Node) -> str:
    return type(n.op).__name__.lower()


def _classifier(model: Model, n: Node, kinds: list[str]) -> str:
    """Say what becomes of a layer that is behind the features."""
    return "new head" if kinds and n in model.graph.outputs[1:] else ""


def show_layers(model: Model) -> None:
    """Print the layers of a network, and what it takes."""
    table = Table("layer", "kind", "output", "numbers", "MACs", "learns", box=None)
    for line in lines(model):
        shape = "x".join(map(str, line.shape))
        count = f"{line.parameters:,}" if line.parameters else ""
        work = in_short(line.macs) if line.macs else ""
        table.add_row(_short(line.name), line.kind, shape, count, work, line.learns)
    OUT.print(table)
    show_model(model)


def show_model(model: Model) -> None:
    """Print what a network takes, and its size."""
    say(f"{model.title}: takes {taken(model)}")
    total = sum(line.parameters for line in lines(model))
    features = model.graph.outputs[0].type.shape[2]
    say(
        f"{len(model.layers)} layers that can learn, {total:,} parameters, "
        f"{in_short(model.graph.macs())} MACs; a new head reads {features} features"
    )


def _short(name: str) -> str:
    """Return the end of a long name, which tells most."""
    return name if len(name) <= _NAME else f"...{name[3 - _NAME :]}"


def taken(model: Model) -> str:
    """Say what a sample is to a network.

    >>> from kilograd.frontend import load_model
    >>> taken(load_model("digits"))
    'images 16x16x1, pixels 0 ... 255 as -1 ... 0.996'
    """
    shape = model.preprocess.spelled
    match model.preprocess.samples:
        case Images(_, Normalised(mean, std)):
            less, over = (",".join(f"{x:g}" for x in numbers) for numbers in (mean, std))
            return f"images {shape}, (pixel / 255 - {less}) / {over}"
        case Arrays(affine):
            scale, zero = affine.scale[0], affine.zero_point
            return f"arrays {shape} of reals, code = real / {scale:.6g} + {zero}"
    quant = model.graph.inputs()[0].type.affine
    black, white = (quant.scale[0] * (code - quant.zero_point) for code in (-128, 127))
    return f"images {shape}, pixels 0 ... 255 as {black:.3g} ... {white:.3g}"


def doubt_pixels(model: Model) -> None:
    """Say that a float file does not say what pixels were in training, where nobody else did."""
    samples = model.preprocess.samples
    if isinstance(samples, Images) and samples.normalised is None:
        say(
            "note: the file does not say what pixels were in training; if not 0 ... 1, give --mean "
            "and --std (0 ... 255 is --std 0.00392157)"
        )


def show_codes(report: Report, accuracy: Accuracy | None) -> None:
    """Print what every layer has lost in codes, and what the answers have."""
    table = Table("layer", "SNR", "from", "to", "channels far larger", box=None)
    for x in report.layers:
        ends = (f"{end:.3g}" for end in (x.low, x.high))
        table.add_row(x.name, f"{x.sqnr:.1f} dB", *ends, ", ".join(map(str, x.outliers[:8])))
    OUT.print(table)
    _say_end(report)
    if accuracy is not None:
        say(
            f"On {accuracy.count} labelled samples {accuracy.reals:.1%} are right in float and "
            f"{accuracy.codes:.1%} in int8; {accuracy.agreement:.1%} of the answers are the same"
        )


def show_report(report: Report) -> None:
    """Print the layers that lose most in codes, and what is doubtful."""
    worst = sorted(report.layers, key=lambda x: x.sqnr)
    table = Table("loses most in int8", "signal to noise", "channels far larger", box=None)
    for x in islice(worst, _SHOWN):
        table.add_row(x.name, f"{x.sqnr:.1f} dB", ", ".join(map(str, x.outliers[:8])))
    OUT.print(table)
    _say_end(report)


def _say_end(report: Report) -> None:
    last = report.layers[-1].sqnr
    samples = "1 sample" if report.samples == 1 else f"{report.samples} samples"
    say(f"Ranges are from {samples}; the last layer keeps {last:.1f} dB")
    for doubt in report.doubts:
        say(f"note: {doubt}")


def show_checked(checked: Checked) -> None:
    """Print how a network compares with the runtime of its file."""
    same = "the same to the bit" if checked.quantised else "the same but for the order of sums"
    beside = f"{len(checked.layers)} tensors compared with {checked.runtime}"
    if checked.exact:
        say(f"{beside}: {same}")
        return
    say(f"{beside}: {len(checked.differing)} differ")
    table = Table("tensor", "numbers that differ", "the worst by", box=None)
    for x in islice(checked.differing, _LISTED):
        worst = f"{x.largest:.0f} codes" if checked.quantised else f"{x.largest:.2%} of the largest"
        table.add_row(x.name, f"{x.differ:,} of {x.count:,}", worst)
    OUT.print(table)
