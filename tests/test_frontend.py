"""Model folders: what is read, and the one sentence that each defect gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from helpers import model_path, needs_shared
from safetensors.numpy import load_file, save_file

from kilograd.errors import InputError
from kilograd.frontend import Preprocess, load_model_folder
from kilograd.ir import Array, Block, interpret
from kilograd.ops import Add, Conv, Depthwise
from kilograd.ops.conv import requantisation

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SIZE = 10

Description = dict[str, Any]
Tensors = dict[str, Array]

# -- a network written by hand ---------------------------------------------------------------------


def layer(
    kind: str, name: str, x: str, shape: list[int], kernel: tuple[int, int], pad: list[int]
) -> Description:
    """Describe a convolution: `shape` is in channels, out channels, out height, out width."""
    depthwise = kind == "depthwise_conv"
    return {
        "name": name,
        "type": kind,
        "inputs": [x],
        "output": f"{name}.out",
        "in_channels": shape[0],
        "out_channels": shape[1],
        "out_shape": shape[1:] if kind != "linear" else shape[1:2],
        "kernel": list(kernel),
        "stride": [1, 1],
        "padding": pad,
        "dilation": [1, 1],
        "groups": shape[1] if depthwise else 1,
        "weight": {"tensor": f"{name}.weight", "scale_tensor": f"{name}.weight_scale"},
        "bias": {"tensor": f"{name}.bias"},
        "position": name,
    }


def description() -> Description:
    """Describe a stem whose padding and kernel differ by side, a depthwise layer, a sum, a head."""
    stem = layer("conv", "stem", "image", [3, 4, 5, 6], (3, 2), [1, 0, 0, 1])
    stem["stride"] = [2, 2]
    stem["out_shape"] = [4, 5, 5]
    dw = layer("depthwise_conv", "dw", "stem.out", [4, 4, 5, 5], (5, 3), [2, 2, 1, 1])
    pw = layer("conv", "pw", "dw.out", [4, 4, 5, 5], (1, 1), [0, 0, 0, 0])
    head = layer("linear", "fc", "features", [4, 3], (1, 1), [0, 0, 0, 0])
    for key in ("kernel", "stride", "padding", "dilation", "groups"):
        del head[key]
    quants = {
        "image": (2 / 255, 0),
        # no simple ratios: the integer form rounds exact ties of a sum up, the real form to even
        "stem.out": (0.02017, -128),
        "dw.out": (0.03141, -100),
        "pw.out": (0.05323, 7),
        "sum.out": (0.06029, -3),
        "features": (0.06029, -3),
        "fc.out": (0.04211, 11),
    }
    ops = [
        stem,
        dw,
        pw,
        {
            "name": "sum",
            "type": "add",
            "inputs": ["stem.out", "pw.out"],
            "output": "sum.out",
            "out_shape": [4, 5, 5],
        },
        {
            "name": "pool",
            "type": "avgpool",
            "inputs": ["sum.out"],
            "output": "features",
            "out_shape": [4],
        },
        head,
    ]
    named = {k: {"scale": scale, "zero_point": zero} for k, (scale, zero) in quants.items()}
    for op in ops:
        op["out"] = dict(named[str(op["output"])])
        given = [dict(named[str(x)]) for x in op["inputs"]]
        op["input"] = given if op["type"] == "add" else given[0]
    return {
        "format": 1,
        "kind": "int8-network-graph",
        "name": "tiny",
        "title": "A tiny network",
        "files": {"int8": "model.safetensors"},
        "input": {
            "tensor": "image",
            "shape": [3, SIZE, SIZE],
            **named["image"],
            "preprocess": {"resize_shorter_side": SIZE + 2},
        },
        "outputs": {"logits": "fc.out", "features": "features"},
        "activations": named,
        "ops": ops,
    }


def tensors() -> Tensors:
    rng = np.random.default_rng(5)
    out: Tensors = {}
    shapes = {"stem": (4, 3, 3, 2), "dw": (4, 1, 5, 3), "pw": (4, 4, 1, 1), "fc": (3, 4)}
    for name, shape in shapes.items():
        out[f"{name}.weight"] = rng.integers(-127, 128, shape).astype(np.int8)
        out[f"{name}.bias"] = rng.integers(-2000, 2000, shape[0]).astype(np.int32)
        scale = rng.uniform(0.002, 0.01, shape[0])
        out[f"{name}.weight_scale"] = scale.astype(np.float32)
    return out


def write(folder: Path, graph: object, numbers: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    save_file(numbers, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny", description(), tensors())


def test_network_written_by_hand_is_read(folder: Path) -> None:
    model = load_model_folder(folder)
    assert (model.name, model.title, model.path) == ("tiny", "A tiny network", folder)
    assert model.layers == ("stem", "dw", "pw")
    steps = model.preprocess
    assert steps == Preprocess.square(SIZE, SIZE + 2, 3)
    assert [str(n.type) for n in model.graph.outputs] == ["i8[1,1,4]", "i8[1,1,3]"]
    values = {n.name for n in model.graph.params()}
    assert values == {
        f"{x}.{what}" for x in ("stem", "dw", "pw", "fc") for what in ("weight", "bias")
    }


def test_network_written_by_hand_computes_what_the_format_says(folder: Path) -> None:
    """Kernels and paddings that differ by side, a sum, an odd number of pixels to pool."""
    graph, network = load_model_folder(folder).graph, oracle.Network(folder, "int8")
    rng = np.random.default_rng(6)
    seen = set()
    for _ in range(50):
        image = rng.integers(-128, 128, (SIZE, SIZE, 3)).astype(np.int8)
        found, codes = interpret(graph, {"image": image}), network.run(image)
        for name, activation in (("pool", "features"), ("fc", "fc.out")):
            value = found[name]
            assert not isinstance(value, Block)
            np.testing.assert_array_equal(value.ravel(), codes[activation].ravel())
            seen.update(value.ravel().tolist())
    assert len(seen) > 50


def test_sanitised_file_is_preferred(folder: Path) -> None:
    graph, numbers = description(), tensors()
    graph["files"]["int8_sanitised"] = "better.safetensors"
    numbers["pw.bias"] = numbers["pw.bias"] + np.int32(1)
    save_file(numbers, folder / "better.safetensors")
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    found = load_model_folder(folder).graph.data["pw.bias"]
    np.testing.assert_array_equal(found, numbers["pw.bias"])


# -- defects ---------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    """Return the message, which is one line and starts with the path."""
    with pytest.raises(InputError) as caught:
        load_model_folder(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder))


def test_missing_folder_and_missing_description(tmp_path: Path) -> None:
    assert "graph.json: no such file" in refusal(tmp_path / "nowhere")
    assert "graph.json: no such file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'format': 1}", "[" * 100_000, '{"a": 1, "a": 2}', "[1e999]"],
    ids=lambda t: t[:9],
)
def test_description_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "graph.json").write_text(text, encoding="utf-8")
    assert "/graph.json: cannot be read as JSON" in refusal(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"graph"'])
def test_description_that_is_no_object(folder: Path, text: str) -> None:
    (folder / "graph.json").write_text(text, encoding="utf-8")
    assert "/graph.json: expected object, got" in refusal(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_format_version(folder: Path, version: object) -> None:
    write(folder, {**description(), "format": version}, tensors())
    assert refusal(folder) == f"/graph.json: format {version!r} is unknown; this version reads 1"


def test_missing_tensor_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "/model.safetensors: no such file" in refusal(folder)


@pytest.mark.parametrize(
    "keep", [0, 4, 100, -1], ids=["empty", "4 bytes", "header cut", "one less"]
)
def test_truncated_tensor_file(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "/model.safetensors: cannot be read, it may be truncated" in refusal(folder)


@pytest.mark.parametrize("name", list(tensors()))
def test_missing_tensor(folder: Path, name: str) -> None:
    write(folder, description(), {k: v for k, v in tensors().items() if k != name})
    assert refusal(folder) == f": tensor {name!r} is missing"


@pytest.mark.parametrize("name", list(tensors()))
def test_tensor_of_the_wrong_type(folder: Path, name: str) -> None:
    write(folder, description(), {**tensors(), name: tensors()[name].astype(np.int64)})
    assert f"tensor {name!r} is int64" in refusal(folder)


@pytest.mark.parametrize("name", list(tensors()))
def test_tensor_of_the_wrong_shape(folder: Path, name: str) -> None:
    value = tensors()[name]
    write(folder, description(), {**tensors(), name: np.concatenate([value, value])})
    message = refusal(folder)
    assert f"tensor {name!r} is {value.dtype}[{2 * len(value)}" in message
    assert f"expected {value.dtype}{list(value.shape)}" in message


@pytest.mark.parametrize("name", [name for name in tensors() if name.endswith("scale")])
@pytest.mark.parametrize("value", [0.0, -0.01, np.nan, np.inf])
def test_weight_scale_that_is_none(folder: Path, name: str, value: float) -> None:
    scales = tensors()[name]
    scales[-1] = value
    write(folder, description(), {**tensors(), name: scales})
    assert name in refusal(folder)


Defect = Callable[[Description], object]


def at(op: int, **fields: object) -> Defect:
    return lambda d: d["ops"][op].update(fields)


def steps(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Change fields of `input.preprocess`."""
    return lambda d: d["input"]["preprocess"].update(fields)


DEFECTS: dict[str, tuple[Defect, tuple[str, ...]]] = {
    "unknown operator": (at(3, type="lstm"), ("'sum'", "'lstm'", "conv, depthwise_conv")),
    "reads what nothing makes": (at(3, inputs=["stem.out", "gone"]), ("'sum'", "'gone'")),
    "reads what comes later": (at(1, inputs=["pw.out"]), ("'dw'", "'pw.out'")),
    "groups neither 1 nor depthwise": (at(0, groups=2), ("'stem'", "groups")),
    "depthwise of one group": (at(1, groups=1), ("'dw'", "groups")),
    "dilation": (at(1, dilation=[2, 2]), ("'dw'", "dilation")),
    "declares another shape": (at(0, out_shape=[4, 6, 6]), ("'stem'", "[4, 6, 6]")),
    "kernel larger than the map": (at(2, padding=[-3, -3, -3, -3]), ("'pw'",)),
    "channels that do not fit": (at(2, in_channels=5), ("'pw.weight'",)),
    "sum of maps that differ": (at(3, inputs=["image", "pw.out"]), ("'sum'",)),
    "sum of one": (at(3, inputs=["pw.out"]), ("'sum'",)),
    "layer that reads nothing": (at(0, inputs=[]), ("'stem'",)),
    "two operators of one name": (at(2, name="dw"), ("'dw'",)),
    "two operators that make the same": (at(2, output="dw.out"), ("'dw.out'",)),
    "features that are no vector": (
        lambda d: d["outputs"].update(features="sum.out"),
        ("sum.out",),
    ),
    "unknown output": (lambda d: d["outputs"].update(logits="gone"), ("'gone'",)),
    "input of no shape": (lambda d: d["input"].update(shape=[3, 8]), ("input",)),
    "input of another shape": (lambda d: d["input"].update(shape=[3, 10, 12]), ("'stem'",)),
    "kind that is none": (lambda d: d["input"].update(kind="sound"), ("input.kind", "sound")),
    "array that is resized": (lambda d: d["input"].update(kind="array"), ("input.preprocess",)),
    "image without preprocess": (lambda d: d["input"].pop("preprocess"), ("input.preprocess",)),
    "mean without std": (steps(mean=[0.5] * 3), ("input.preprocess", "std")),
    "means of two channels": (steps(mean=[0.5] * 2, std=[1.0] * 2), ("2 means", "3 channels")),
    "mean that is none": (steps(mean=["a"] * 3, std=[1.0] * 3), ("input.preprocess.mean[0]",)),
    "large mean": (steps(mean=[1e9] * 3, std=[1.0] * 3), ("preprocess", "mean", "65536")),
    "std of zero": (steps(mean=[0.5] * 3, std=[0.0] * 3), ("preprocess", "std")),
    "scale 0": (at(2, out={"scale": 0, "zero_point": 0}), ("'pw'", "scale")),
    "scale < 0": (at(3, out={"scale": -0.1, "zero_point": 0}), ("'sum'", "scale")),
    "scale not finite": (at(1, out={"scale": float("nan"), "zero_point": 0}), ("not a finite",)),
    "scale that is no number": (at(1, out={"scale": None, "zero_point": 0}), ("'dw'",)),
    "scale of the input": (lambda d: d["input"].update(scale=0.0), ("input", "scale")),
    "zero point no int8": (at(2, out={"scale": 0.1, "zero_point": 200}), ("'pw'", "zero_point")),
    "scales a shift cannot express": (at(0, out={"scale": 1e12, "zero_point": 0}), ("'stem'",)),
    "scales that overflow": (at(0, out={"scale": 1e-20, "zero_point": 0}), ("'stem'",)),
    "operator that is no object": (lambda d: d["ops"].insert(1, "conv"), ("graph.json",)),
    "float padding": (at(0, padding=[1.0, 1.0, 1.0, 1.0]), ("'stem'", "padding[0]", "int")),
    "padding above int16": (at(0, padding=[40000, 0, 0, 0]), ("'stem'", "padding[0]", "32767")),
    "kernel above int16": (at(1, kernel=[40000, 3]), ("'dw'", "kernel[0]", "32767")),
    "stride above int16": (at(0, stride=[65537, 65537]), ("'stem'", "stride[0]", "32767")),
    "channels above int16": (at(2, out_channels=40000), ("'pw'", "out_channels", "32767")),
    "channels that are true": (at(2, out_channels=True), ("'pw'", "out_channels", "bool")),
    "large input": (lambda d: d["input"].update(shape=[3, 4096, 4096]), ("2048",)),
    "large resize": (
        lambda d: d["input"]["preprocess"].update(resize_shorter_side=60_000),
        ("input.preprocess.resize_shorter_side", "2048"),
    ),
    "too many operators": (lambda d: d.update(ops=d["ops"] * 1000), ("ops", "4096")),
    "file that lies above": (
        lambda d: d["files"].update(int8="../model.safetensors"),
        ("files.int8", "inside the folder"),
    ),
    "file that lies elsewhere": (
        lambda d: d["files"].update(int8="/etc/passwd"),
        ("files.int8", "inside the folder"),
    ),
    "title of two lines": (lambda d: d.update(title="a\nb"), ("title", r"'\n'")),
    "files that are none": (lambda d: d.update(files=["model.safetensors"]), ("graph.json",)),
}


@pytest.mark.parametrize("what", DEFECTS)
def test_description_with_a_defect(folder: Path, what: str) -> None:
    defect, words = DEFECTS[what]
    graph = description()
    defect(graph)
    write(folder, graph, tensors())
    message = refusal(folder)
    for word in words:
        assert word in message


FIELDS = [
    ("files",),
    ("files", "int8"),
    ("input",),
    *(("input", x) for x in ("tensor", "shape", "scale", "zero_point", "preprocess")),
    ("input", "preprocess", "resize_shorter_side"),
    ("outputs",),
    *(("outputs", x) for x in ("features", "logits")),
    ("name",),
    ("title",),
    ("ops",),
    *(("ops", 3, x) for x in ("name", "type", "inputs", "output", "out_shape", "out")),
    *(("ops", 0, x) for x in ("in_channels", "out_channels", "weight", "bias")),
    *(("ops", 0, "out", x) for x in ("scale", "zero_point")),
    *(("ops", 0, "weight", x) for x in ("tensor", "scale_tensor")),
    ("ops", 0, "bias", "tensor"),
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: ".".join(map(str, f)))
def test_missing_field(folder: Path, field: tuple[str | int, ...]) -> None:
    graph = description()
    holder: Any = graph
    for key in field[:-1]:
        holder = holder[key]
    del holder[field[-1]]
    write(folder, graph, tensors())
    assert str(field[-1]) in refusal(folder)


@pytest.mark.parametrize("value", [None, "x", -1, 0, [], {}, [[]], 10**30, float("nan")], ids=repr)
@pytest.mark.parametrize("field", FIELDS, ids=lambda f: ".".join(map(str, f)))
def test_field_of_the_wrong_kind(folder: Path, field: tuple[str | int, ...], value: object) -> None:
    """Refused like any other defect, or harmless; never an exception of Python's own."""
    graph = description()
    holder: Any = graph
    for key in field[:-1]:
        holder = holder[key]
    holder[field[-1]] = value
    write(folder, graph, tensors())
    try:
        model = load_model_folder(folder)
    except InputError:
        refusal(folder)
    else:
        image = np.zeros((SIZE, SIZE, 3), np.int8)
        interpret(model.graph, {"image": image})


def test_byte_order_mark_is_passed_over(folder: Path) -> None:
    file = folder / "graph.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_model_folder(folder).name == "tiny"


def test_tensors_are_not_read_through_a_link_that_leads_out(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.safetensors", tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in refusal(folder)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "C64", "U16", "BOOL"])
def test_tensor_of_a_type_that_no_network_has(folder: Path, kind: str) -> None:
    size = {"BF16": 2, "F8_E4M3": 1, "C64": 8, "U16": 2, "BOOL": 1}[kind]
    about = {"stem.bias": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}
    header = json.dumps(about).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    (folder / "model.safetensors").write_bytes(data)
    graph = description()
    graph["ops"][0]["weight"]["tensor"] = "stem.bias"
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    assert f"tensor 'stem.bias' is {kind}, expected" in refusal(folder)


def test_larger_files_than_any_network_has_are_not_read(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(2**40)  # sparse: it has no blocks on the disk
    assert "larger than" in refusal(folder)


def test_accumulator_that_could_overflow(folder: Path) -> None:
    bias = tensors()["dw.bias"]
    bias[2] = 2**31 - 5
    write(folder, description(), {**tensors(), "dw.bias": bias})
    message = refusal(folder)
    assert "'dw'" in message
    assert "sanitised" in message


# -- the published networks ------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_published_multipliers_follow_from_the_scales(name: str) -> None:
    """The integers beside the published weights, for every convolution, sum and classifier."""
    path = model_path(name)
    stored = load_file(path / "model-sanitised.safetensors")
    ops = json.loads((path / "graph.json").read_text(encoding="utf-8"))["ops"]
    sums = {op["name"]: op["requant"] for op in ops if op["type"] == "add"}
    checked = dict.fromkeys((Conv, Depthwise, Add), 0)
    for n in load_model_folder(path).graph.nodes:
        xs = [x.type for x in n.inputs]
        if isinstance(n.op, Conv | Depthwise):
            multiplier, shift = requantisation(xs[0].affine, xs[1].affine, n.type.affine)
            published = stored[f"{n.name}.requant_multiplier"], stored[f"{n.name}.requant_shift"]
            factor, wanted = (
                m * 2.0 ** -s.astype(np.float64) for m, s in ((multiplier, shift), published)
            )
            # the scales of a layer are fractions of one power of two: small ones have fewer bits
            np.testing.assert_allclose(factor, wanted, rtol=2**-23)
        elif isinstance(n.op, Add):
            want = *sums[n.name]["multipliers"], sums[n.name]["shift"]
            assert n.op.multipliers(*xs) == want
        else:
            continue
        checked[type(n.op)] += 1
    assert sum(checked.values()) == len(ops) - 1  # all but the pooling
    assert min(checked.values()) >= 7


@needs_shared
@pytest.mark.parametrize(("name", "fits"), [*zip(NETWORKS, (False, True, False), strict=True)])
def test_weights_as_published(name: str, fits: bool, tmp_path: Path) -> None:
    """As published, degenerate channels of two of the networks could wrap 32 bits."""
    path = model_path(name)
    graph = json.loads((path / "graph.json").read_text(encoding="utf-8"))
    del graph["files"]["int8_sanitised"]
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    shutil.copy(path / "model.safetensors", tmp_path)
    if fits:
        load_model_folder(tmp_path)
    else:
        message = refusal(tmp_path)
        assert "int32 cannot hold" in message
        assert "use the sanitised model file" in message
