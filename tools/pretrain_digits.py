"""Pre-train, quantise and write the bundled ``digits`` network.

    pip install torch==2.13.0 numpy scikit-learn safetensors pillow
    python tools/pretrain_digits.py --out src/kilograd/models/digits

A small depthwise-separable network learns the digits 0 to 4 of scikit-learn's ``load_digits``.
Images of 5 to 9 never reach training or calibration: they are what ``make demo`` learns on the
device. The result is a model folder, ``graph.json`` and ``model.safetensors``. It is read back and
executed with integers only, by numpy code that shares nothing with the code that wrote it; the
figures printed at the end come from there.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

SEED = 20
SIDE = 16
CLASSES = (0, 1, 2, 3, 4)
UNSEEN = (5, 6, 7, 8, 9)
ORIENTATIONS = 8
EPOCHS = 60
BATCH = 64
INPUT_SCALE = 2 / 255
WORST_LOSS = 0.02
RELU6_LIMIT = 6.0
# A learning rule that divides by the weight scale blows up where a channel has almost no weights.
# No scale is less than this fraction of its layer's median; below 3 % the format says degenerate.
SMALLEST_SCALE = 0.05

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]
Json = dict[str, Any]


# ---------------------------------------------------------------- network


@dataclass(frozen=True)
class Op:
    """One operator. Its name says where it stands; shapes are channels, height, width."""

    name: str
    type: str
    inputs: tuple[str, ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1

    @property
    def output(self) -> str:
        special = {"input": "input", "avgpool": "features", "classifier": "logits"}
        return special.get(self.name, f"{self.name}.out")

    @property
    def block(self) -> int | None:
        return int(self.name.split(".")[1]) if self.name.startswith("blocks.") else None

    @property
    def position(self) -> str:
        return "stem" if self.name == "first_conv" else self.name.split(".")[-1]

    @property
    def relu6(self) -> bool:
        return self.position in {"stem", "pw1", "dw"}

    @property
    def groups(self) -> int:
        return self.in_shape[0] if self.type == "depthwise_conv" else 1

    @property
    def has_weights(self) -> bool:
        return self.type in {"conv", "depthwise_conv", "linear"}

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Empty for operators without weights."""
        if not self.has_weights:
            return ()
        shape = (self.out_shape[0], self.in_shape[0] // self.groups)
        return shape if self.type == "linear" else (*shape, self.kernel, self.kernel)

    @property
    def params(self) -> int:
        return math.prod(self.weight_shape) + self.out_shape[0] if self.has_weights else 0

    @property
    def macs(self) -> int:
        return math.prod(self.weight_shape + self.out_shape[1:]) if self.has_weights else 0


@dataclass(frozen=True)
class Block:
    """An inverted residual: 1x1 expansion (none if 0), depthwise, 1x1 projection."""

    expand: int
    out: int
    kernel: int
    stride: int


STEM_CHANNELS = 16
# The kernels of the large networks except 7x7: 3x3 and 5x5 depthwise, both at stride 1 and 2.
BLOCKS = (
    Block(expand=0, out=16, kernel=3, stride=1),
    Block(expand=48, out=24, kernel=3, stride=2),
    Block(expand=72, out=24, kernel=5, stride=1),
    Block(expand=72, out=40, kernel=5, stride=2),
    Block(expand=120, out=40, kernel=3, stride=1),
    Block(expand=120, out=40, kernel=3, stride=1),
    Block(expand=120, out=64, kernel=3, stride=1),
)


def network() -> tuple[Op, ...]:
    """The operators in execution order."""
    source = Op("input", "input", (), (), (1, SIDE, SIDE))
    ops = [convolution("first_conv", source, STEM_CHANNELS, kernel=3)]
    for index, block in enumerate(BLOCKS):
        skip, name = ops[-1], f"blocks.{index}"
        if block.expand:
            ops.append(convolution(f"{name}.pw1", skip, block.expand))
        width = ops[-1].out_shape[0]
        ops.append(convolution(f"{name}.dw", ops[-1], width, block.kernel, block.stride))
        ops.append(convolution(f"{name}.pw2", ops[-1], block.out))
        shape = ops[-1].out_shape
        if block.expand and shape == skip.out_shape:
            ops.append(Op(f"{name}.add", "add", (skip.output, ops[-1].output), shape, shape))
    last, shape = ops[-1].output, ops[-1].out_shape
    pool = Op("avgpool", "avgpool", (last,), shape, shape[:1], kernel=shape[1])
    logits = Op("classifier", "linear", (pool.output,), pool.out_shape, (len(CLASSES),))
    return (*ops, pool, logits)


def convolution(name: str, source: Op, channels: int, kernel: int = 1, stride: int = 1) -> Op:
    """A convolution behind ``source``, padded so that stride 1 keeps the size."""
    kind = "depthwise_conv" if name.endswith(".dw") else "conv"
    side = -(-source.out_shape[1] // stride)
    shape = (channels, side, side)
    return Op(name, kind, (source.output,), source.out_shape, shape, kernel, stride)


def run_float(
    ops: Sequence[Op], layer: Callable[[Op, Tensor], Tensor], images: Tensor
) -> dict[str, Tensor]:
    """Every activation by name; ``layer`` evaluates the operators that have weights."""
    values = {"input": images}
    for op in ops:
        x = values[op.inputs[0]]
        if op.type == "add":
            y = x + values[op.inputs[1]]
        elif op.type == "avgpool":
            y = x.mean(dim=(2, 3))
        else:
            y = layer(op, x)
        values[op.output] = y.clamp(0, RELU6_LIMIT) if op.relu6 else y
    return values


def trainable(ops: Sequence[Op]) -> nn.ModuleDict:
    """Convolutions with batch norm, and a classifier of every class in every orientation."""
    modules = nn.ModuleDict()
    for op in ops:
        if op.type == "linear":
            modules[module_name(op)] = nn.Linear(op.in_shape[0], op.out_shape[0] * ORIENTATIONS)
        elif op.has_weights:
            channels = op.out_shape[0]
            conv = nn.Conv2d(
                op.in_shape[0],
                channels,
                op.kernel,
                op.stride,
                op.kernel // 2,
                groups=op.groups,
                bias=False,
            )
            modules[module_name(op)] = nn.Sequential(conv, nn.BatchNorm2d(channels))
    return modules


def module_name(op: Op) -> str:
    """Module names cannot contain dots."""
    return op.name.replace(".", "_")


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Digits:
    """8-bit images (N x SIDE x SIDE) and labels 0 to 9."""

    pixels: NDArray[np.uint8]
    labels: Int64

    def only(self, keep: NDArray[Any]) -> Digits:
        return Digits(self.pixels[keep], self.labels[keep])


def load() -> Digits:
    """All 1797 images, as an image loader that follows ``input.preprocess`` delivers them."""
    data = load_digits()
    grey = np.minimum(data.images * 16, 255).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(g).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for g in grey
    ]
    return Digits(np.stack(resized), data.target.astype(np.int64))


def split(digits: Digits) -> tuple[Digits, Digits, Digits]:
    """Training and test images of CLASSES (the last fifth of each), and all images of UNSEEN."""
    train = np.zeros(len(digits.labels), dtype=bool)
    test = train.copy()
    for label in CLASSES:
        where = np.flatnonzero(digits.labels == label)
        cut = len(where) * 4 // 5
        train[where[:cut]] = True
        test[where[cut:]] = True
    return digits.only(train), digits.only(test), digits.only(np.isin(digits.labels, UNSEEN))


def quantised(pixels: NDArray[np.uint8]) -> Int8:
    """The network's input codes, N x 1 x SIDE x SIDE."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)[:, None]


def real_input(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(quantised(pixels).astype(np.float32) * np.float32(INPUT_SCALE))


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, turn, scale, shear, bend, dim and disturb each image in its own way."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=rng) * (high - low) + low

    angle, shear = uniform(-0.3, 0.3), uniform(-0.25, 0.25)
    width, height = uniform(0.8, 1.2), uniform(0.85, 1.2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack((cos * width, (shear - sin) * width, uniform(-0.2, 0.2)), dim=1),
        torch.stack((sin * height, cos * height, uniform(-0.15, 0.15)), dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    bend = F.interpolate(
        uniform(-0.12, 0.12, 2, 4, 4), size=(SIDE, SIDE), mode="bicubic", align_corners=False
    )
    grid = grid + bend.permute(0, 2, 3, 1)
    # Outside the image there is background, -1, where grid_sample puts 0.
    warped = F.grid_sample(images + 1, grid, mode="bilinear", align_corners=False)
    contrast = uniform(0.7, 1.15, 1, 1, 1)
    noise = torch.randn(images.shape, generator=rng) * uniform(0.0, 0.12, 1, 1, 1)
    return (warped * contrast + noise - 1).clamp(-128 * INPUT_SCALE, 127 * INPUT_SCALE)


def orient(images: Tensor, which: Tensor) -> Tensor:
    """Turn image i by ``which[i] % 4`` quarters, mirrored first from 4 on; 0 leaves it upright."""
    mirrored = images.flip(3)
    every = [images.rot90(k, (2, 3)) for k in range(4)] + [
        mirrored.rot90(k, (2, 3)) for k in range(4)
    ]
    return torch.stack(every, dim=1)[torch.arange(len(images)), which]


# ---------------------------------------------------------------- training


def train(ops: Sequence[Op], digits: Digits) -> nn.ModuleDict:
    """Cross-entropy on CLASSES in eight orientations, each a class of its own.

    Five classes alone leave features that tell only those five apart: nearest-prototype accuracy
    on other digits was 53 %, and 84 % with forty classes (30 epochs; with the two halves of the
    digits exchanged, 68 % and 94 %).
    """
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    modules = trainable(ops)
    images = real_input(digits.pixels)
    targets = torch.from_numpy(np.searchsorted(CLASSES, digits.labels))
    # Weight decay would shrink the scales of batch norm, hence whole channels, towards zero.
    decayed = [p for p in modules.parameters() if p.ndim > 1]
    others = [p for p in modules.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    )
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=5e-3, total_steps=EPOCHS * batches
    )
    modules.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=rng)
        total = 0.0
        for batch in order[: batches * BATCH].split(BATCH):
            which = torch.randint(ORIENTATIONS, batch.shape, generator=rng)
            seen = augment(orient(images[batch], which), rng)
            logits = run_float(ops, lambda op, x: modules[module_name(op)](x), seen)["logits"]
            loss = F.cross_entropy(logits, targets[batch] * ORIENTATIONS + which)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3} of {EPOCHS}: mean loss {total / batches:.3f}", flush=True)
    return modules.eval()


# ---------------------------------------------------------------- fold, calibrate, quantise


@dataclass(frozen=True)
class Layer:
    """A layer with batch norm folded into its weights and bias."""

    weight: Tensor
    bias: Tensor


def fold(ops: Sequence[Op], modules: nn.ModuleDict) -> dict[str, Layer]:
    """Batch norm becomes a factor and an offset; the classifier keeps the upright classes."""
    layers = {}
    for op in ops:
        if not op.has_weights:
            continue
        module = modules[module_name(op)]
        if isinstance(module, nn.Linear):
            upright = slice(None, None, ORIENTATIONS)
            layers[op.name] = Layer(module.weight.detach()[upright], module.bias.detach()[upright])
            continue
        conv, norm = module.children()
        state = norm.state_dict()
        factor = state["weight"] / torch.sqrt(state["running_var"] + 1e-5)
        weight = conv.state_dict()["weight"] * factor[:, None, None, None]
        layers[op.name] = Layer(weight, state["bias"] - state["running_mean"] * factor)
    return layers


def run_folded(ops: Sequence[Op], layers: Mapping[str, Layer], images: Tensor) -> dict[str, Tensor]:
    def evaluate(op: Op, x: Tensor) -> Tensor:
        layer = layers[op.name]
        if op.type == "linear":
            return F.linear(x, layer.weight, layer.bias)
        return F.conv2d(x, layer.weight, layer.bias, op.stride, op.kernel // 2, groups=op.groups)

    with torch.no_grad():
        return run_float(ops, evaluate, images)


@dataclass(frozen=True)
class Quant:
    """Scale and zero point of an activation."""

    scale: float
    zero_point: int

    def real(self, q: int) -> float:
        return (q - self.zero_point) * self.scale

    def json(self) -> Json:
        return {"scale": self.scale, "zero_point": self.zero_point}


def calibrate(ops: Sequence[Op], layers: Mapping[str, Layer], digits: Digits) -> dict[str, Quant]:
    """Ranges from the smallest to the largest value on training images.

    Each image also appears turned and augmented: the network will see other digits, and go on
    learning, so its ranges need air.
    """
    rng = torch.Generator().manual_seed(SEED + 1)
    images = real_input(digits.pixels)
    which = torch.randint(ORIENTATIONS, (len(images),), generator=rng)
    varied = augment(orient(images, which), rng)
    values = run_folded(ops, layers, torch.cat([images, varied]))
    quants = {"input": Quant(INPUT_SCALE, 0)}
    for op in ops:
        y = values[op.output]
        low, high = min(y.min().item(), 0.0), max(y.max().item(), 0.0)
        if op.type == "avgpool":
            quants[op.output] = quants[op.inputs[0]]
        elif op.relu6:
            quants[op.output] = Quant(high / 255, -128)
        else:
            scale = (high - low) / 255
            quants[op.output] = Quant(scale, round(-128 - low / scale))
    return quants


def fixed_point(scale: float) -> tuple[int, int]:
    """Multiplier in [2^30, 2^31) and shift, so that scale ~ multiplier * 2^-shift."""
    mantissa, exponent = math.frexp(scale)
    multiplier, shift = round(mantissa * 2**31), 31 - exponent
    return (multiplier // 2, shift - 1) if multiplier == 2**31 else (multiplier, shift)


def add_requant(a: Quant, b: Quant, out: Quant) -> Json:
    """Both multipliers share the shift of the larger one."""
    scales = (a.scale / out.scale, b.scale / out.scale)
    _, shift = fixed_point(max(scales))
    return {"multipliers": [round(s * 2**shift) for s in scales], "shift": shift}


def quantise(ops: Sequence[Op], layers: Mapping[str, Layer], quants: Mapping[str, Quant]) -> Arrays:
    """The ten tensors of each layer."""
    tensors: Arrays = {}
    for op in ops:
        if not op.has_weights:
            continue
        layer, source, out = layers[op.name], quants[op.inputs[0]], quants[op.output]
        weight = layer.weight.numpy().astype(np.float64)
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        floor = SMALLEST_SCALE * np.median(largest)
        scale = (np.maximum(largest, floor) / 127).astype(np.float32)
        exact = scale.astype(np.float64)
        codes = np.rint(weight / exact.reshape(-1, *[1] * (weight.ndim - 1)))
        bias = np.rint(layer.bias.numpy().astype(np.float64) / (source.scale * exact))
        effective = source.scale * exact / out.scale
        requant = np.array([fixed_point(float(e)) for e in effective], dtype=np.int32)
        tensors |= {
            f"{op.name}.weight": np.clip(codes, -127, 127).astype(np.int8),
            f"{op.name}.bias": bias.astype(np.int32),
            f"{op.name}.weight_scale": scale,
            f"{op.name}.effective_scale": effective.astype(np.float32),
            f"{op.name}.requant_multiplier": requant[:, 0].copy(),
            f"{op.name}.requant_shift": requant[:, 1].copy(),
            f"{op.name}.input_scale": np.array([source.scale], dtype=np.float32),
            f"{op.name}.input_zero_point": np.array([source.zero_point], dtype=np.int32),
            f"{op.name}.output_scale": np.array([out.scale], dtype=np.float32),
            f"{op.name}.output_zero_point": np.array([out.zero_point], dtype=np.int32),
        }
    return tensors


# ---------------------------------------------------------------- write

ATTRIBUTION = (
    "Trained on part of 'Optical Recognition of Handwritten Digits' by E. Alpaydin and C. Kaynak, "
    "UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0"
)

CONVENTIONS = {
    "layout": "activations CHW (batch dimension omitted); conv weights [out, in/groups, kh, kw]; "
    "linear weights [out, in]",
    "padding_order": "top, bottom, left, right",
    "padding_value": "input zero_point (real 0.0)",
    "conv": "acc[c] = bias[c] + sum(weight[c] * (x_q - input.zero_point));  "
    "y_q = clamp(out.zero_point + round(acc[c] * effective_scale[c]), q_min, q_max)",
    "effective_scale": "input.scale * weight_scale[c] / out.scale",
    "add": "y_q = clamp(out.zero_point + "
    "round((s_a*(a_q - z_a) + s_b*(b_q - z_b)) / out.scale), q_min, q_max)",
    "avgpool": "y_q = round(mean over H,W of x_q); scale and zero point unchanged",
    "rounding": "half to even; ties matter only in avgpool",
    "fixed_point": "effective_scale ~ requant_multiplier * 2^-requant_shift; "
    "y = out.zero_point + ((acc * multiplier + 2^(shift-1)) >> shift) with a 64-bit product",
    "add_integer": "y = out.zero_point + "
    "((m_a*(a_q - z_a) + m_b*(b_q - z_b) + 2^(shift-1)) >> shift) with a 64-bit sum; "
    "m_a, m_b, shift in requant of the op",
    "avgpool_integer": "S = sum of x_q, n = H*W: y = floor((2*S + n) / (2*n)), "
    "minus 1 if the division is exact and y is odd; for n = 16: y = (S + 7 + ((S >> 4) & 1)) >> 4",
    "real_value": "real = (q - zero_point) * scale",
    "relu6": "folded into the int8 clamp: zero_point is -128 and scale <= 6/255",
}


def op_json(index: int, op: Op, quants: Mapping[str, Quant]) -> Json:
    """One entry of ``ops``."""
    sources, out = [quants[name] for name in op.inputs], quants[op.output]
    entry: Json = {
        "index": index,
        "name": op.name,
        "type": op.type,
        "stage": "stem" if op.position == "stem" else "head" if op.block is None else "block",
        "block": op.block,
        "position": op.position,
        "inputs": op.inputs,
    }
    if op.type == "add":
        entry["roles"] = ["skip", "branch"]
    entry |= {"output": op.output, "in_shape": op.in_shape, "out_shape": op.out_shape}
    if op.has_weights:
        entry |= {"in_channels": op.in_shape[0], "out_channels": op.out_shape[0]}
    if op.type in {"conv", "depthwise_conv"}:
        entry |= {
            "kernel": [op.kernel] * 2,
            "stride": [op.stride] * 2,
            "padding": [op.kernel // 2] * 4,
            "dilation": [1, 1],
            "groups": op.groups,
        }
    if op.type == "avgpool":
        entry["kernel"] = [op.kernel] * 2
    if op.has_weights:
        entry["weight"] = {
            "tensor": f"{op.name}.weight",
            "dtype": "int8",
            "shape": op.weight_shape,
            "axis": 0,
            "scale_tensor": f"{op.name}.weight_scale",
            "zero_point": 0,
        }
        entry["bias"] = {
            "tensor": f"{op.name}.bias",
            "dtype": "int32",
            "shape": [op.out_shape[0]],
            "scale": "input.scale * weight_scale[c]",
            "zero_point": 0,
        }
        entry["requant"] = {
            "effective_scale_tensor": f"{op.name}.effective_scale",
            "multiplier_tensor": f"{op.name}.requant_multiplier",
            "shift_tensor": f"{op.name}.requant_shift",
        }
    entry["input"] = [s.json() for s in sources] if op.type == "add" else sources[0].json()
    entry["out"] = out.json()
    if op.type == "add":
        entry["requant"] = add_requant(sources[0], sources[1], out)
    entry["activation"] = "relu6" if op.relu6 else "none"
    entry["clamp"] = {"q": [-128, 127], "real": [out.real(-128), out.real(127)]}
    if op.has_weights:
        entry["degenerate_channels"] = []
    entry |= {"params": op.params, "macs": op.macs}
    return entry


def block_json(index: int, block: Block, ops: Sequence[Op]) -> Json:
    """One entry of ``blocks``."""
    inside = [i for i, op in enumerate(ops) if op.block == index]
    first, last = ops[inside[0]], ops[inside[-1]]
    return {
        "index": index,
        "ops": inside,
        "input": first.inputs[0],
        "output": last.output,
        "residual": last.type == "add",
        "expand_channels": block.expand or first.in_shape[0],
        "kernel": block.kernel,
        "stride": block.stride,
        "in_shape": first.in_shape,
        "out_shape": last.out_shape,
    }


def graph_json(ops: Sequence[Op], quants: Mapping[str, Quant]) -> Json:
    """The whole of ``graph.json``."""
    shapes = {op.output: op.out_shape for op in ops} | {"input": ops[0].in_shape}
    producers = {op.output: op.name for op in ops}
    weighted = [op for op in ops if op.has_weights]
    body = [op for op in weighted if op.type != "linear"]
    return {
        "format": 1,
        "kind": "int8-network-graph",
        "name": "digits",
        "title": "Handwritten digits 0 to 4, 16 x 16, depthwise-separable",
        "provenance": {
            "spdx": "Apache-2.0",
            "copyright": "The Kilograd authors",
            "source_file": "tools/pretrain_digits.py",
            "training_data": ATTRIBUTION,
            "training_data_spdx": "CC-BY-4.0",
            "training_classes": [str(label) for label in CLASSES],
            "unseen_classes": [str(label) for label in UNSEEN],
            "changes": "none: no channel is degenerate, files.int8_sanitised is files.int8",
        },
        "files": {"int8": "model.safetensors", "int8_sanitised": "model.safetensors"},
        "conventions": CONVENTIONS,
        "input": {
            "tensor": "input",
            "shape": shapes["input"],
            **quants["input"].json(),
            "preprocess": {
                "colour": "L",
                "resize_shorter_side": SIDE,
                "interpolation": "bilinear",
                "center_crop": SIDE,
                "quantise": "q = pixel_uint8 - 128  (pixel 0..255 -> -128..127)",
                "real": "(pixel - 128) * 2/255",
                "source": "load_digits, 8 x 8, light strokes on black, values 0..16: "
                "pixel_uint8 = min(16 * value, 255)",
            },
        },
        "outputs": {"logits": "logits", "features": "features"},
        "num_classes": len(CLASSES),
        "class_order": "digits " + ", ".join(str(label) for label in CLASSES),
        "activations": {
            name: {
                "shape": shapes[name],
                "dtype": "int8",
                **quant.json(),
                "real_range": [quant.real(-128), quant.real(127)],
                "producer": producers.get(name),
            }
            for name, quant in quants.items()
        },
        "ops": [op_json(index, op, quants) for index, op in enumerate(ops)],
        "blocks": [block_json(index, block, ops) for index, block in enumerate(BLOCKS)],
        "sanitised_channels": [],
        "small_scale_channels": [],
        "summary": {
            "ops": len(ops),
            "weight_layers": len(weighted),
            "conv_layers": len(body),
            "blocks": len(BLOCKS),
            "residual_adds": sum(op.type == "add" for op in ops),
            "params_total": sum(op.params for op in weighted),
            "params_without_classifier": sum(op.params for op in body),
            "weights_without_classifier": sum(math.prod(op.weight_shape) for op in body),
            "macs_total": sum(op.macs for op in weighted),
            "macs_without_classifier": sum(op.macs for op in body),
            "feature_channels": ops[-1].in_shape[0],
        },
    }


def write(out: Path, graph: Json, tensors: Arrays) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(graph, indent=1)
    # A list of numbers or names reads better, and is smaller, on one line.
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    (out / "graph.json").write_text(text + "\n", encoding="utf-8")
    metadata = {
        "attribution": ATTRIBUTION,
        "format": "1",
        "model": "digits",
        "licence": "Apache-2.0",
        "variant": "int8 values; no degenerate channels, no sanitised variant needed",
    }
    (out / "model.safetensors").write_bytes(safetensors_bytes(tensors, metadata))


def safetensors_bytes(tensors: Arrays, metadata: Mapping[str, str]) -> bytes:
    """The library's own writer shuffles the metadata: no two files of it are the same bytes."""
    kinds = {"float32": "F32", "int32": "I32", "int8": "I8"}
    header: Json = {"__metadata__": metadata}
    data = b""
    # Wide elements first: all stay aligned.
    for name, value in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        end = len(data) + value.nbytes
        header[name] = {
            "dtype": kinds[value.dtype.name],
            "shape": value.shape,
            "data_offsets": [len(data), end],
        }
        data += value.astype(value.dtype.newbyteorder("<")).tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


# ---------------------------------------------------------------- check, from the written files


class IntegerNetwork:
    """Executes a model folder by the integer formulas of its ``conventions``, in 64-bit numpy."""

    def __init__(self, folder: Path) -> None:
        self.graph: Json = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
        self.tensors: Arrays = load_file(folder / self.graph["files"]["int8_sanitised"])
        self.largest_accumulator = 0

    def __call__(self, codes: Int8) -> dict[str, Int64]:
        """Every activation of a batch."""
        values: dict[str, Int64] = {self.graph["input"]["tensor"]: codes.astype(np.int64)}
        for op in self.graph["ops"]:
            sources = [values[name] for name in op["inputs"]]
            if op["type"] == "avgpool":
                y = self.average(sources[0])
            elif op["type"] == "add":
                y = self.add(op, sources[0], sources[1])
            else:
                y = self.multiply(op, sources[0])
            low, high = op["clamp"]["q"]
            values[op["output"]] = y if op["type"] == "avgpool" else np.clip(y, low, high)
        return values

    @staticmethod
    def average(x: Int64) -> Int64:
        total, n = x.sum(axis=(2, 3)), x.shape[2] * x.shape[3]
        y, rest = np.divmod(2 * total + n, 2 * n)
        return y - ((rest == 0) & (y % 2 == 1))

    @staticmethod
    def add(op: Json, a: Int64, b: Int64) -> Int64:
        (m_a, m_b), shift = op["requant"]["multipliers"], op["requant"]["shift"]
        z_a, z_b = (source["zero_point"] for source in op["input"])
        total = m_a * (a - z_a) + m_b * (b - z_b)
        y: Int64 = op["out"]["zero_point"] + ((total + (1 << (shift - 1))) >> shift)
        return y

    def multiply(self, op: Json, x: Int64) -> Int64:
        weight = self.tensors[op["weight"]["tensor"]].astype(np.int64)
        centred = x - op["input"]["zero_point"]
        if op["type"] == "linear":
            acc = centred @ weight.T
        else:
            top, bottom, left, right = op["padding"]
            padded = np.pad(centred, ((0, 0), (0, 0), (top, bottom), (left, right)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, op["kernel"], axis=(2, 3))
            windows = windows[:, :, :: op["stride"][0], :: op["stride"][1]]
            if op["type"] == "depthwise_conv":
                acc = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
            else:
                acc = np.moveaxis(np.tensordot(windows, weight, ([1, 4, 5], [1, 2, 3])), 3, 1)
        per_channel = (-1,) + (1,) * (acc.ndim - 2)
        acc = acc + self.tensors[op["bias"]["tensor"]].astype(np.int64).reshape(per_channel)
        self.largest_accumulator = max(self.largest_accumulator, int(np.abs(acc).max()))
        multiplier, shift = (
            self.tensors[op["requant"][key]].astype(np.int64).reshape(per_channel)
            for key in ("multiplier_tensor", "shift_tensor")
        )
        rounded: Int64 = (acc * multiplier + (1 << (shift - 1))) >> shift
        return rounded + op["out"]["zero_point"]


def accuracy(scores: NDArray[Any], labels: Iterable[int], classes: Sequence[int]) -> float:
    return float(np.mean(np.asarray(classes)[scores.argmax(axis=1)] == np.asarray(labels)))


def episodes(features: NDArray[np.float64], labels: Int64, count: int = 20) -> NDArray[np.float64]:
    """Accuracy of the nearest of five-image prototypes, by cosine, on all other images."""
    rng = np.random.default_rng(SEED)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    results = []
    for _ in range(count):
        order = rng.permutation(len(labels))
        support = [order[labels[order] == label][:5] for label in UNSEEN]
        query = np.setdiff1d(order, np.concatenate(support))
        prototypes = np.stack([unit[rows].mean(axis=0) for rows in support])
        prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
        results.append(accuracy(unit[query] @ prototypes.T, labels[query], UNSEEN))
    return np.array(results)


def check(
    out: Path, ops: Sequence[Op], layers: Mapping[str, Layer], test: Digits, unseen: Digits
) -> None:
    """Print what the written network can do, next to the float network it came from."""
    integer = IntegerNetwork(out)
    as_float = run_folded(ops, layers, real_input(test.pixels))
    as_int = integer(quantised(test.pixels))
    float_accuracy = accuracy(as_float["logits"].numpy(), test.labels, CLASSES)
    int_accuracy = accuracy(as_int["logits"], test.labels, CLASSES)
    quant = integer.graph["activations"]["features"]
    few_float = episodes(
        run_folded(ops, layers, real_input(unseen.pixels))["features"].numpy().astype(np.float64),
        unseen.labels,
    )
    codes = integer(quantised(unseen.pixels))["features"]
    few_int = episodes((codes - quant["zero_point"]) * quant["scale"], unseen.labels)
    pixels = episodes(
        unseen.pixels.reshape(len(unseen.labels), -1).astype(np.float64), unseen.labels
    )
    print(f"digits {CLASSES}, {len(test.labels)} test images: ", end="")
    print(f"float {float_accuracy:.2%}, int8 {int_accuracy:.2%}")
    print(f"digits {UNSEEN}, never seen, nearest of 5-shot prototypes, {len(few_int)} episodes:")
    for name, values in (("float", few_float), ("int8", few_int), ("raw pixels", pixels)):
        print(f"  {name:10} {values.mean():.1%}, from {values.min():.1%} to {values.max():.1%}")
    print(f"largest accumulator seen: {integer.largest_accumulator}")
    smallest = min(
        float(scale.min() / np.median(scale))
        for name, scale in integer.tensors.items()
        if name.endswith(".weight_scale")
    )
    print(f"smallest weight scale: {smallest:.2f} of the median of its layer")
    if abs(float_accuracy - int_accuracy) > WORST_LOSS:
        raise SystemExit(f"int8 differs from float by more than {WORST_LOSS:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)  # so small a network only waits for a second one
    torch.use_deterministic_algorithms(mode=True)
    begin = time.perf_counter()
    training, test, unseen = split(load())
    ops = network()
    modules = train(ops, training)
    layers = fold(ops, modules)
    quants = calibrate(ops, layers, training)
    write(out, graph_json(ops, quants), quantise(ops, layers, quants))
    check(out, ops, layers, test, unseen)
    sizes = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    print(f"{out}: {sizes}, {sum(sizes.values())} bytes, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
