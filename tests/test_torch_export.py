import contextlib
import io
import json
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilograd.errors import InputError
from kilograd.frontend.torch_export import (
    intermediates,
    network_of,
    program_from,
    read_program,
    read_pt2,
    translated,
)
from kilograd.frontend.torch_export.translate import _TRANSLATIONS
from kilograd.layers.evaluate import evaluate
from kilograd.layers.network import Convolution, Network, Pool
from kilograd.layers.shapes import fits

pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as its users call it

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Of(nn.Module):  # type: ignore[misc]
    """A function as a module, with modules that it calls."""

    def __init__(self, f: Any, **parts: Any) -> None:
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *xs: Any) -> Any:
        return self.f(self, *xs)


class Mixed(nn.Module):  # type: ignore[misc]
    """Two branches in groups of channels, squeeze and excitation, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, (2, 1), 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        )
        self.left = nn.Conv2d(4, 4, 3, padding="same", groups=4, dilation=2)
        self.right = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=2)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout(0.2, inplace=True)
        self.head = nn.Linear(8, 5)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.normal_(norm.weight)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        a, b = x.chunk(2, 1)
        n, c, h, w = x.shape
        y = torch.cat([self.right(b), self.left(a)], 1)
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = x + y * F.hardsigmoid(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        return self.head(self.drop(x.mean((2, 3)))), x


def outputs(network: Network, *xs: Any) -> list[np.ndarray]:
    given = {v.name: x.numpy() for v, x in zip(network.inputs, xs, strict=True)}
    found = evaluate(network, given)
    return [found[v] for v in network.outputs]


def check(module: Any, *shapes: tuple[int, ...]) -> Network:
    """See that a module's network computes what the module does; return it."""
    torch.manual_seed(1)
    module.eval()
    network = network_of(module, *(torch.zeros(1, *s) for s in shapes))
    assert all(fits(x, network.layout) for x in network.layers)
    xs = [torch.randn(1, *s) * 2 for s in shapes]
    with torch.no_grad():
        wanted = module(*(x.clone() for x in xs))  # which it may overwrite
    for y, z in zip(
        outputs(network, *xs), wanted if isinstance(wanted, tuple) else (wanted,), strict=True
    ):
        np.testing.assert_allclose(y, z.numpy(), rtol=1e-4, atol=1e-5)
    return network


MAP = (6, 8, 12)
MODULES = {
    "mixed": (Mixed(), (3, 8, 8)),
    "relu": (Of(lambda m, x: F.relu(x)), MAP),
    "leaky": (Of(lambda m, x: F.leaky_relu_(x.clone(), 0.2)), MAP),
    "prelu": (nn.PReLU(), MAP),
    "elu": (nn.ELU(0.7), MAP),
    "silu": (nn.SiLU(), MAP),
    "hardswish": (nn.Hardswish(inplace=True), MAP),
    "mish": (nn.Mish(), MAP),
    "gelu": (nn.Sequential(nn.GELU(), nn.GELU(approximate="tanh")), MAP),
    "softplus": (nn.Softplus(), MAP),
    "tanh": (Of(lambda m, x: torch.tanh(x).sigmoid().exp().sqrt().neg().abs()), MAP),
    "clamp": (Of(lambda m, x: x.clamp(min=-1).clamp(-3, 1).clamp_max(0.5)), MAP),
    "hardtanh": (nn.Hardtanh(), MAP),
    "softmax": (nn.Softmax(-1), (7,)),
    "log_softmax": (nn.LogSoftmax(-1), (7,)),
    "scalars": (Of(lambda m, x: (2 - (x - 1) / 3 * 2 + 0.5) ** 2), MAP),
    "constants": (
        Of(
            lambda m, x: (x - m.mean) / torch.tensor([2.0]).view(1, 1, 1, 1) * m.each,
            mean=nn.Parameter(torch.rand(1, 6, 1, 1)),
            each=nn.Parameter(torch.rand(6, 1, 1)),
        ),
        MAP,
    ),
    "sub": (Of(lambda m, x: x[:, :3] - x[:, 3:]), MAP),
    "alpha": (Of(lambda m, x: torch.add(x, torch.tensor(1.5), alpha=2)), MAP),
    "expand": (Of(lambda m, x: x * x.mean((2, 3), keepdim=True).expand_as(x)), MAP),
    "max pool": (nn.MaxPool2d(3, 2, 1), (6, 9, 12)),
    "ceil": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2)), MAP),
    "mean pool": (nn.AvgPool2d((3, 2), (2, 1), 1), MAP),
    "mean pool, no pad": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), MAP),
    "mean pool, ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), MAP),
    "adaptive": (nn.Sequential(nn.AdaptiveAvgPool2d((4, 6)), nn.AdaptiveMaxPool2d(2)), MAP),
    "amax": (Of(lambda m, x: (x.amax((2, 3)), x.amax((-1, -2), keepdim=True))), MAP),
    "mean of an axis": (Of(lambda m, x: (x.mean(1), x.mean(-1, keepdim=True), x.sum((2, 3)))), MAP),
    "splits": (Of(lambda m, x: torch.cat(x.split([1, 2, 3], 1)[::-1], 1)), MAP),
    "stack": (Of(lambda m, x: torch.stack(x.unbind(1)[:2], 2)), MAP),
    "slices": (Of(lambda m, x: x[:, 1:5:2, :-1].narrow(3, 2, 4)), MAP),
    "select": (Of(lambda m, x: x[:, -1]), MAP),
    "index": (Of(lambda m, x: x[:, torch.tensor([4, -1, 4])].flip(3)), MAP),
    "shuffle": (nn.ChannelShuffle(3), MAP),
    "permute": (Of(lambda m, x: x.permute(0, 2, 3, 1).flatten(1).unsqueeze(2).squeeze(2)), MAP),
    "pad": (nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.ConstantPad2d(1, 0.5)), MAP),
    "nearest": (nn.Upsample(scale_factor=2), MAP),
    "nearest 1-D": (nn.Upsample(scale_factor=3), (4, 5)),
    "linear of each": (Of(lambda m, x: m.a(x), a=nn.Linear(12, 3)), MAP),
    "dense": (nn.Sequential(nn.Flatten(), nn.Linear(40, 9), nn.BatchNorm1d(9)), (4, 10)),
    "1-D": (
        nn.Sequential(
            nn.Conv1d(4, 6, 5, 2, 2, bias=False),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.AvgPool1d(3, 1, 1),
            nn.Conv1d(6, 6, 3, padding="same", groups=6),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        ),
        (4, 50),
    ),
    "two inputs": (Of(lambda m, x, y: x + y), MAP, MAP),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_network_computes_what_its_module_does(name: str) -> None:
    module, *shapes = MODULES[name]
    check(module, *shapes)


def test_layers_have_the_names_of_the_modules_that_hold_their_weights() -> None:
    network = check(Mixed(), (3, 8, 8))
    found = {x.name: x for x in network.layers}
    assert {"stem.0", "stem.1", "stem.2", "left", "right", "squeeze", "head_"} <= found.keys()
    conv = found["left"].op
    assert isinstance(conv, Convolution)
    assert (conv.weight.origin, conv.weight.values.shape) == ("left.weight", (4, 3, 3, 1))
    assert conv.bias is not None
    assert conv.bias.origin == "left.bias"
    assert [x.name for x in network.layers if x.name.startswith("hardsigmoid")] == ["hardsigmoid"]


def test_a_network_has_no_batch_and_what_is_given_may_be_one() -> None:
    network = network_of(Mixed().eval(), torch.zeros(3, 3, 8, 8))
    assert [v.shape for v in (*network.inputs, *network.outputs)] == [(3, 8, 8), (5,), (8, 4, 8)]


def test_the_batch_may_be_dynamic_and_nothing_else() -> None:
    x, auto = torch.zeros(2, 3, 8, 8), torch.export.Dim.AUTO
    network = network_of(torch.export.export(Mixed().eval(), (x,), dynamic_shapes=({0: auto},)))
    assert network.inputs[0].shape == (3, 8, 8)
    wide = torch.export.export(nn.ReLU(), (x,), dynamic_shapes=({3: auto},))
    with pytest.raises(InputError, match="axis other than the first is dynamic"):
        network_of(wide)


def test_what_is_overwritten_is_read_as_it_is_then() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.a(x)
        z = F.relu_(y)
        return y * 2 + z + F.hardtanh_(m.a(x))

    check(Of(forward, a=nn.Conv2d(6, 6, 1)), MAP)


def test_what_is_overwritten_under_another_name_is_refused() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.a(x)
        part = y[:, :3]
        F.relu_(y)
        return part

    with pytest.raises(InputError, match="overwrites what is read again"):
        network_of(Of(forward, a=nn.Conv2d(6, 6, 1)).eval(), torch.zeros(1, *MAP))


def save(module: Any, path: Path, *shapes: tuple[int, ...]) -> Path:
    examples = tuple(torch.zeros(1, *s) for s in shapes)
    torch.export.save(torch.export.export(module.eval(), examples), path)
    return path


def test_a_file_is_read_without_pytorch(tmp_path: Path) -> None:
    file = save(Mixed(), tmp_path / "net.pt2", (3, 8, 8))
    code = (
        "import sys; from pathlib import Path; from kilograd.frontend.torch_export import read_pt2;"
        f"n = read_pt2(Path({str(file)!r})); print(n.name, len(n.layers), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    network = read_pt2(file)
    assert ran.stdout.split() == ["net", str(len(network.layers)), "False"]
    assert network.source.format == "PyTorch"
    assert len(network.source.sha256) == 64


def test_values_are_those_of_pytorch_at_each_call(tmp_path: Path) -> None:
    module = Mixed().eval()
    exported = torch.export.export(module, (torch.zeros(1, 3, 8, 8),))
    program = program_from(exported)
    x = torch.randn(1, 3, 8, 8)
    found = intermediates(program, {"x": x.numpy()})
    wanted: dict[str, Any] = {}

    class Kept(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            y = super().run_node(n)
            if isinstance(y, torch.Tensor):
                wanted[n.name] = y.detach().numpy().copy()
            return y

    Kept(exported.module(check_guards=False)).run(x)
    network = translated(program)
    assert len(found.keys() & set(network.values())) >= 14
    for value, y in found.items():
        np.testing.assert_array_equal(y, wanted[value.name].reshape(y.shape))
    many = intermediates(program, {"x": np.repeat(x.numpy(), 3, axis=0)})  # exported for one
    np.testing.assert_array_equal(many[network.outputs[0]][2:], found[network.outputs[0]])


# -- what cannot be imported -----------------------------------------------------------------------


def refused(module: Any, *shapes: tuple[int, ...]) -> str:
    with pytest.raises(InputError) as e:
        network_of(module, *(torch.zeros(1, *s) for s in shapes))
    return str(e.value)


def test_all_operators_that_cannot_be_layers_are_named_at_once() -> None:
    class Attending(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.LayerNorm(12))
            self.up = nn.ConvTranspose2d(6, 6, 2)
            self.tail = nn.InstanceNorm2d(6)

        def forward(self, x: Any) -> Any:
            y = self.block(x)
            y = y @ y.transpose(2, 3)
            return torch.cumsum(self.tail(self.up(y)), 1)

    said = refused(Attending().eval(), MAP)
    assert "6 layers cannot be imported" in said
    assert "layer_norm (block.0.layer_norm [6, 8, 12], block.2.layer_norm_1 [6, 8, 12]): " in said
    for part in ("matmul", "conv_transpose2d (up.", "instance_norm (tail.", "cumsum"):
        assert part in said
    assert "BatchNorm2d" in said
    assert "attention" in said


def test_a_module_in_training_mode_is_refused() -> None:
    said = refused(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Dropout()).train(), MAP)
    assert "batch_norm (1.batch_norm" in said
    assert "dropout (2.dropout" in said
    assert "call module.eval() before the export" in said


def test_control_flow_is_refused() -> None:
    def forward(m: Any, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x.cumsum(1), lambda x: x - 1, (x,))

    said = refused(Of(forward).eval(), MAP)
    assert "higher_order.cond" in said
    assert "control flow" in said
    assert "inside, cumsum cannot be read either" in said


def test_many_layers_are_all_named() -> None:
    norms = [nn.Sequential(nn.LayerNorm(12), nn.LogSigmoid()) for _ in range(60)]
    said = refused(nn.Sequential(*norms), MAP)
    assert "120 layers cannot be imported" in said
    assert all(f"{i}.0.layer_norm" in said for i in range(60))
    assert "docs/import-torch.md" in said


def test_what_pytorch_cannot_export_is_refused() -> None:
    def forward(m: Any, x: Any) -> Any:
        return x if x.sum() > 0 else -x

    assert "torch.export.export cannot export it" in refused(Of(forward).eval(), MAP)
    with pytest.raises(InputError, match="needs an example"):
        network_of(nn.ReLU())
    with pytest.raises(InputError, match="neither a tensor"):
        network_of(nn.ReLU(), "x")
    with pytest.raises(InputError, match=r"no torch\.nn\.Module"):
        network_of(torch.relu, torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        (Of(lambda m, x: x.reshape(-1)), MAP, "drops the axis of the batch"),
        (Of(lambda m, x: x.mean()), MAP, "mean"),
        (Of(lambda m, x: torch.cat([x, x], 0)), MAP, "axis of the batch"),
        (Of(lambda m, x: x.permute(1, 0, 2, 3)), MAP, "axis of the batch"),
        (Of(lambda m, x: x.half() * 2), MAP, "float16"),
        (Of(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), MAP, "pads by reflect"),
        (Of(lambda m, x: F.adaptive_avg_pool2d(x, 5)), MAP, "differ in size"),
        (Of(lambda m, x: F.interpolate(x, (9, 13))), MAP, "whole number"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), MAP, "mode='nearest'"),
        (nn.PReLU(6), MAP, "slope for each channel"),
        (nn.MaxPool2d(2, dilation=2), MAP, "dilation 1"),
        (Of(lambda m, x: x / x), MAP, "divides by what is computed"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1)), MAP, "plain parameter"),
        (Of(lambda m, x: m.a(x), a=nn.Conv2d(6, 6, 1).half().float().bfloat16().float()), MAP, ""),
    ],
)
def test_what_cannot_be_a_layer_is_refused_with_a_reason(
    module: Any, shape: tuple[int, ...], said: str
) -> None:
    if said:
        assert said in refused(module.eval(), shape)
    else:
        check(module, shape)


def test_weights_that_are_not_finite_are_refused() -> None:
    conv = nn.Conv2d(6, 6, 1)
    with torch.no_grad():
        conv.weight[0, 0] = float("nan")
    assert "'weight' holds numbers that are not finite" in refused(conv, MAP)


def test_the_page_lists_all_operators() -> None:
    page = Path(__file__).parents[1] / "docs" / "import-torch.md"
    if not page.exists():
        pytest.skip("the documents are not here")
    part = page.read_text().partition("## Operators")[2].partition("##")[0]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    assert set(re.findall("`([a-z_0-9]+)`", "".join(table))) - {"quantized_decomposed"} == {
        name.split(".")[1] if "." in name else name for name in _TRANSLATIONS
    }


# -- files that are damaged, or hostile ------------------------------------------------------------


def rewritten(file: Path, change: dict[str, Any]) -> Path:
    """Return a copy of a `.pt2` file with other members, given by the ends of their names."""
    out = file.with_name("other.pt2")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            for end, other in change.items():
                if name.endswith(end):
                    data = other(data)
            if data is not None:
                new.writestr(name, data)
    return out


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Mixed(), tmp_path_factory.mktemp("pt2") / "net.pt2", (3, 8, 8))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(net: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Bomb(mark), buffer)
    pickled = buffer.getvalue()
    read_pt2(rewritten(net, {"sample_inputs/net.pt": lambda d: pickled}))

    def as_pickle(data: bytes) -> bytes:
        config = json.loads(data)
        config["config"]["head.bias"]["use_pickle"] = True
        return json.dumps(config).encode()

    with zipfile.ZipFile(net) as z:
        member = next(n for n in z.namelist() if n.endswith("weights_config.json"))
        bias = json.loads(z.read(member))["config"]["head.bias"]["path_name"]
    file = rewritten(net, {"weights_config.json": as_pickle, f"/{bias}": lambda d: pickled})
    with pytest.raises(InputError, match=r"'head\.bias': is a tensor of its own class"):
        read_pt2(file)
    assert not mark.exists()
    torch.load(io.BytesIO(pickled), weights_only=False)
    assert mark.exists()  # the bomb works where it is unpickled


def test_a_truncated_file_is_refused(net: Path) -> None:
    data = net.read_bytes()
    other = net.with_name("cut.pt2")
    for length in [0, 1, 10, *range(100, len(data), len(data) // 20), len(data) - 1]:
        other.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_pt2(other)


@pytest.mark.parametrize("number", [10**400, -(10**400), "NaN"])
def test_a_number_beyond_floats_is_refused(net: Path, number: object) -> None:
    def changed(data: bytes) -> bytes:
        text = re.sub(
            rb'"as_float": ?[-0-9.e]+', b'"as_float": ' + json.dumps(number).encode(), data
        )
        assert text != data
        return text

    with pytest.raises(InputError):
        read_pt2(rewritten(net, {"model.json": changed}))


def test_a_file_with_other_bytes_is_read_or_refused(net: Path) -> None:
    draw = random.Random(2)
    data = net.read_bytes()
    other = net.with_name("flipped.pt2")
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(draw.choice([1, 4, 40])):
            changed[draw.randrange(len(data))] = draw.randrange(256)
        other.write_bytes(changed)
        with contextlib.suppress(InputError):
            read_pt2(other)


def test_what_a_file_says_is_checked(net: Path) -> None:
    """Whatever a field becomes, reading ends with a network that fits, or with an `InputError`."""
    draw = random.Random(1)
    values = [None, -1, 0, 7, 1 << 40, 1.5, "x", [], {}, [1], {"as_int": 3}, {"name": "x"}, True]

    def places(tree: Any) -> list[tuple[Any, Any]]:
        keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
        found = [(tree, k) for k in keys]
        for k in keys:
            if isinstance(tree[k], dict | list):
                found += places(tree[k])
        return found

    def damaged(data: bytes) -> bytes:
        tree = json.loads(data)
        every = [p for p in places(tree) if p[1] not in {"stack_trace", "torch_fn"}]
        parent, key = draw.choice(every)
        parent[key] = draw.choice(values)
        return json.dumps(tree).encode()

    read = 0
    for i in range(200):
        member = "weights_config.json" if i % 4 == 0 else "models/net.json"
        try:
            network = read_pt2(rewritten(net, {member: damaged}))
        except InputError:
            continue
        read += 1
        assert all(fits(x, network.layout) for x in network.layers)
        x = {v.name: np.zeros((1, *v.shape), np.float32) for v in network.inputs}
        evaluate(network, x)
    assert 0 < read < 200


def test_numbers_of_another_size_are_refused(net: Path) -> None:
    with pytest.raises(InputError, match="holds fewer numbers than its shape says"):
        read_pt2(rewritten(net, {"weights/weight_0": lambda d: d[:-4]}))
    with pytest.raises(InputError, match="little-endian"):
        read_pt2(rewritten(net, {"byteorder": lambda d: b"big"}))

    def huge(data: bytes) -> bytes:
        config = json.loads(data)
        meta = config["config"]["head.bias"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]
        return json.dumps(config).encode()

    with pytest.raises(InputError, match="holds fewer numbers than its shape says"):
        read_pt2(rewritten(net, {"weights_config.json": huge}))


def test_another_zip_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pt2"
    torch.save({"a": 1}, file)
    with pytest.raises(InputError, match="holds no exported programs"):
        read_program(file)
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(InputError, match="an old PyTorch"):
        read_program(file)


def test_bfloat16_and_permuted_weights_are_read(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last)).eval()
    network = check(module, MAP)
    assert not any(isinstance(x.op, Pool) for x in network.layers)
