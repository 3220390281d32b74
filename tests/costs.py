"""Published costs, and what the formulas give for them.

The layer tables in `layer_tables/` are facts of the three networks at 128x128, read from the
files that mit-han-lab/tiny-training publishes (algorithm/assets/mcu_models), in the order of its
layer numbers.  Of MobileNetV2 and ProxylessNASNet they also have the 1x1 convolution ("mix") that
those files lack, and without which TinyTrain's Table 3 cannot be met.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

from kilograd.passes import Part
from kilograd.select import PLANS, Parameter, Selection, bias, weight
from kilograd.select.cost import Cost, Layer, full_train, in_framework, tinytrain, tte

MCUNET, MBV2, PROXYLESS = NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
#: Channels of the last 1x1 convolution in TinyTrain's networks.
LAST_CONV = {MBV2: 448, PROXYLESS: 384}
MIB = 1 << 20


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """Return the table of a network as it is in the file."""
    file = Path(__file__).parent / "layer_tables" / f"{name}.csv"
    with file.open(encoding="utf-8", newline="") as f:
        return tuple(csv.DictReader(f))


@cache
def table(name: str, *, mix: bool = True) -> tuple[Layer, ...]:
    """Return the layers of a network, TinyTrain's last convolution included or not."""
    names = {"stem": "first_conv", "mix": "last_conv"}
    return tuple(
        Layer(
            name=names.get(r["role"], f"blocks.{r['block']}.{r['role']}"),
            depthwise=r["role"] == "dw",
            taps=int(r["k"]) ** 2,
            inputs=int(r["cin"]),
            outputs=int(r["cout"]),
            pixels_in=int(r["hin"]) ** 2,
            pixels_out=int(r["hout"]) ** 2,
            relu=r["role"] != "pw2",
            residual=r["role"] == "pw2" and r["residual_block"] == "1",
        )
        for r in rows(name)
        if mix or r["role"] != "mix"
    )


def last(network: tuple[Layer, ...], k: int, *, weights: bool = True) -> Selection:
    """Biases of the last k layers learn, and their weights too unless told otherwise."""
    kinds = (weight, bias) if weights else (bias,)
    return Selection({kind(n.name): Part() for n in network[-k:] for kind in kinds})


def last_layer(network: tuple[Layer, ...]) -> Selection:
    """The weights of the last convolution learn: TinyTrain's LastLayer."""
    return Selection({weight(network[-1].name): Part()})


def published_plan(name: str, label: str) -> Selection:
    """A SparseUpdate plan.  Which channels learn is left open: only their number costs."""
    network, plan = table(name, mix=False), PLANS[name][label]
    learn = {bias(n.name): Part() for n in network[-plan.k :]}
    for i, ratio in zip(plan.layers, plan.ratios, strict=True):
        kept = tuple(range(int(network[i].inputs * ratio)))
        learn[weight(network[i].name)] = Part(2 if network[i].depthwise else 3, kept)
    return Selection(learn)


#: Shares of input channels by which SparseUpdate of Table 2 is met.  No published plan has them.
POSSIBLE = {
    MBV2: {
        "blocks.9.pw1": 1 / 2,
        "blocks.10.pw2": 1 / 2,
        "blocks.11.pw1": 1,
        "blocks.14.pw1": 1,
        "last_conv": 1,
    },
    PROXYLESS: {
        "blocks.12.pw2": 1 / 8,
        "blocks.13.pw1": 1 / 4,
        "blocks.13.pw2": 1 / 2,
        "blocks.15.pw1": 1,
        "blocks.15.pw2": 1 / 8,
        "blocks.16.pw1": 1,
        "blocks.19.pw2": 1 / 4,
        "last_conv": 1,
    },
}


def possible_plan(name: str) -> Selection:
    """Return an update plan, with shares as the published ones have, that Table 2 could mean."""
    inputs = {layer.name: layer.inputs for layer in table(name)}
    shares = POSSIBLE[name].items()
    return Selection({weight(n): Part(3, tuple(range(int(inputs[n] * s)))) for n, s in shares})


@dataclass(frozen=True)
class Modules:
    """How lite residual modules are made: by default as the repository of TinyTL makes them.

    mit-han-lab/tinyml, tinytl/tinytl/model/modules.py: the first block, which has no expansion,
    gets none (`first`); a kernel of 5, or the largest odd one within half of a map that is thought
    `zoom` times as wide as it is at 128x128 pixels, since the width is a constant there.
    """

    kernel: int = 5
    zoom: int = 2
    groups: int = 2
    first: int = 1

    def beside(self, block: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Return the layers of the module beside a block, its groups one by one."""
        begin, end = block[0], block[-1]
        name, _, _ = begin.name.rpartition(".")
        channels, side = begin.inputs, math.isqrt(begin.pixels_in)
        kernel = self.kernel
        while kernel > max(side * self.zoom // 2, 1):
            kernel -= 2
        cut, small = channels // self.groups, end.pixels_out // 4
        groups = [f"{name}.lite.group{i}" for i in range(self.groups)]
        pooled = {"pixels_in": begin.pixels_in // 4, "pixels_out": small}
        layers = [
            Layer(
                group,
                False,
                kernel**2,
                cut,
                cut,
                **pooled,
                relu=True,
                residual=False,
                sources=begin.sources,
            )
            for group in groups
        ]
        out = Layer(
            f"{name}.lite.out",
            False,
            1,
            channels,
            end.outputs,
            small,
            small,
            False,
            False,
            tuple(groups),
        )
        return (*layers, out)


def with_modules(network: tuple[Layer, ...], how: Modules) -> tuple[tuple[Layer, ...], Selection]:
    """Return a network with modules beside its blocks, and TinyTL: they learn, nothing else."""
    grown: list[Layer] = []
    learn: dict[Parameter, Part] = {}
    made_by: tuple[str, ...] = ()  # the layers that made the map so far
    number = 0
    for block, members in itertools.groupby(network, lambda n: n.name.rpartition(".")[0]):
        begin = made_by
        layers = []
        for layer in members:
            layers.append(replace(layer, sources=made_by))
            made_by = (layer.name,)
        grown += layers
        if layers[-1].residual:
            made_by += begin
        if block and number >= how.first:
            module = how.beside(tuple(layers))
            grown += module
            learn |= {weight(n.name): Part() for n in module}
            made_by += (module[-1].name,)
        number += bool(block)
    return tuple(grown), Selection(learn)


#: Ways to make modules, each with the last convolution and without.
SUPPOSED = tuple(
    (Modules(*how), mix)
    for how in itertools.product((1, 3, 5, 7), (1, 2, 4, 8), (1, 2, 4), range(6))
    for mix in (True, False)
)
#: Work of TinyTL in Table 2, millions of MACs.
TINY_TL = {MCUNET: 26.4, MBV2: 16.4, PROXYLESS: 17.8}


def tiny_tl_work(how: Modules, *, mix: bool) -> dict[str, float]:
    """Return the work of TinyTL in millions of MACs, network by network."""
    grown = {name: with_modules(table(name, mix=mix), how) for name in NETWORKS}
    return {name: in_framework(*g).macs.backward / 1e6 for name, g in grown.items()}


@dataclass(frozen=True)
class Figure:
    """A printed number, what the formulas give for it, and why that differs, if it does.

    `choice`: what the paper leaves open, and was chosen so that the number comes.
    """

    source: str
    network: str
    what: str
    printed: str
    unit: str
    found: Decimal | None
    note: str = ""
    rounding: str = ROUND_HALF_UP
    choice: str = ""

    @property
    def rounded(self) -> str | None:
        """What was found, with as many digits as were printed."""
        if self.found is None:
            return None
        digits = Decimal(self.printed.replace(",", ""))
        return f"{self.found.quantize(digits, self.rounding):,}"

    @property
    def agrees(self) -> bool:
        """Whether the printed digits are met."""
        return self.rounded == self.printed


def figures() -> Iterator[Figure]:
    """Every published figure that a formula is for."""
    yield from _table_3()
    yield from _table_7()
    yield from _forward_peaks()
    yield from _table_2()
    yield from _analytic()


def _table_3() -> Iterator[Figure]:
    printed = {
        MCUNET: ("0.46", "22.5", "42", "13"),
        MBV2: ("0.29", "17.4", "52", "17"),
        PROXYLESS: ("0.36", "19.2", "61", "20"),
    }
    for name, (weights, macs, count, blocks) in printed.items():
        network = table(name)
        source = "TinyTrain, Table 3"
        yield Figure(source, name, "parameters", weights, "M", _m(sum(n.weights for n in network)))
        yield Figure(source, name, "MACs", macs, "M", _m(sum(n.macs for n in network)))
        yield Figure(source, name, "layers", count, "", Decimal(len(network)))
        note = "14 with the first, which has no expansion; of the others the first is counted"
        ends = Decimal(sum(not n.relu for n in network))
        yield Figure(source, name, "blocks", blocks, "", ends, note if name == MCUNET else "")


def _table_7() -> Iterator[Figure]:
    printed = {
        MCUNET: ("80.3", "135.9", "191.6", "281.0", "392.3", "479.0"),
        MBV2: ("54.7", "101.6", "148.5", "218.4", "325.7", "432.9"),
        PROXYLESS: ("60.3", "89.1", "118.0", "171.6", "241.5", "299.3"),
    }
    for name, cells in printed.items():
        network = table(name)
        for blocks, cell in enumerate(cells, 1):
            memory = tinytrain(network, last(network, 3 * blocks + (name in LAST_CONV))).memory
            assert memory.saved_inputs is not None
            assert memory.masks is not None
            saved = _k(memory.saved_inputs + memory.masks)
            yield Figure("TinyTrain, Table 7", name, f"last {blocks} blocks", cell, "KB", saved)


def _forward_peaks() -> Iterator[Figure]:
    for name, cell in ((MCUNET, "640"), (MBV2, "896"), (PROXYLESS, "512")):
        buffers = tinytrain(table(name), Selection()).memory.buffers
        assert buffers is not None
        source = "TinyTrain, F.1"
        yield Figure(source, name, "input and output buffers", cell, "KB", _k(buffers))


def _table_2() -> Iterator[Figure]:
    note = "the formula of appendix A.4 gives less whatever learns; this is what a framework keeps"
    full = {MCUNET: ("906", "44.9"), MBV2: ("1,049", "34.9"), PROXYLESS: ("857", "38.4")}
    for name, cells in full.items():
        yield from _pair(name, "FullTrain", cells, full_train(table(name)), (note, ""))
    only = {MCUNET: ("2.03", "1.57"), MBV2: ("1.64", "0.80"), PROXYLESS: ("1.06", "0.59")}
    for name, cells in only.items():
        network = table(name)
        typo = "a typo for 1.47: only that fits the ratio next to it, 0.23 of 6.51 M"
        notes = ("", typo if name == MCUNET else "")
        yield from _pair(name, "LastLayer", cells, tinytrain(network, last_layer(network)), notes)
    plan = tinytrain(table(MCUNET), published_plan(MCUNET, "99kb"))
    yield from _pair(MCUNET, "SparseUpdate", ("1.43", "11.9"), plan, ("", ""))
    sparse = {MBV2: ("2.08", "8.10"), PROXYLESS: ("1.74", "7.60")}
    for name, cells in sparse.items():
        cost = tinytrain(table(name), possible_plan(name))
        yield from _pair(name, "SparseUpdate", cells, cost, ("", ""), "the plan")
    tiny_tl = {MCUNET: ("542", "26.4"), MBV2: ("587", "16.4"), PROXYLESS: ("541", "17.8")}
    for name, cells in tiny_tl.items():
        cost = in_framework(*with_modules(table(name), Modules()))
        alone = "what meets the two others gives more here" if name == PROXYLESS else ""
        yield from _pair(name, "TinyTL", cells, cost, (note, alone))
    ours = {MCUNET: ("0.89", "6.51"), MBV2: ("1.06", "4.90"), PROXYLESS: ("0.78", "5.00")}
    for name, cells in ours.items():
        chosen = "which layers were chosen, task by task, is not given"
        yield from _pair(name, "TinyTrain", cells, None, (chosen, chosen))


def _pair(
    name: str,
    method: str,
    cells: tuple[str, str],
    cost: Cost | None,
    notes: tuple[str, str],
    choice: str = "",
) -> Iterator[Figure]:
    memory = None if cost is None else Decimal(cost.memory.total) / MIB
    macs = None if cost is None else _m(cost.macs.backward)
    source = "TinyTrain, Table 2"
    yield Figure(source, name, f"{method}, memory", cells[0], "MB", memory, notes[0], choice=choice)
    yield Figure(source, name, f"{method}, compute", cells[1], "M", macs, notes[1], choice=choice)


def _analytic() -> Iterator[Figure]:
    source = "tiny-training, schemes"
    for name, plans in PLANS.items():
        for label in plans:
            found = _k(tte(table(name, mix=False), published_plan(name, label)).memory.total)
            printed = label.removesuffix("kb")  # 49.8 is cut off to 49kb
            what = f"sparse-{label}"
            yield Figure(source, name, what, printed, "KB", found, rounding=ROUND_FLOOR)
    mcunet, mbv2 = table(MCUNET, mix=False), table(MBV2, mix=False)
    for origin, name, network, k, printed in (
        ("tiny-training, README", MCUNET, mcunet, 12, "448"),
        ("tiny-training, figure", MBV2, mbv2, 36, "545"),
    ):
        found = _k(tte(network, last(network, k)).memory.total)
        yield Figure(origin, name, f"last {k} layers", printed, "KB", found)


def _m(count: int) -> Decimal:
    return Decimal(count) / 1_000_000


def _k(count: int) -> Decimal:
    return Decimal(count) / 1024
