"""The example of an exported project as it is said to be: in numpy, by the driver's calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.emit import Program
from kilograd.emit.application import Application
from kilograd.emit.pictures import drawn
from kilograd.frontend import Arrays, Attribution, Images, Preprocess
from kilograd.ir import Array
from kilograd.targets import Driver

PASSES, RATE, SEED = 3, 0.02, 1


def application(program: Program, **changes: Any) -> Application:
    """A program of a small network as an application: of 8 of 9 pixels, in colour."""
    (image,) = program.entries["infer"].graph.inputs()
    (logits,) = program.entries["infer"].graph.outputs
    size, _, channels = image.type.shape
    usual: dict[str, Any] = {
        "program": program,
        "name": "small",
        "title": "A small network",
        "preprocess": Preprocess.square(size, size + 1, channels),
        "method": "by hand",
        "learned": 1,
        "rate": RATE,
        "passes": PASSES,
        "group": 4,
        "pictures": drawn(logits.type.size),
        "attribution": Attribution({}, {}),
    }
    return Application(**{**usual, **changes})


def mean_of_touched(
    frame: Array, corner: tuple[int, int], cut: tuple[int, int], size: tuple[int, int]
) -> Array:
    """An image int8 [*size, c] of a part of a frame uint8 [h, w, c], pixel by pixel."""
    out = np.zeros((*size, frame.shape[2]), np.int8)
    for y, x in np.ndindex(size):
        rows, cols = (
            slice(first + int(np.floor(i * side / of)), first + int(np.ceil((i + 1) * side / of)))
            for first, i, side, of in zip(corner, (y, x), cut, size, strict=True)
        )
        touched = frame[rows, cols].reshape(-1, frame.shape[2]).astype(np.int64)
        out[y, x] = np.floor(touched.mean(axis=0) + 0.5) - 128
    return out


def middle(frame: Array, preprocess: Preprocess) -> Array:
    """An image of the middle of a frame."""
    height, width, _ = frame.shape
    high, wide, _ = preprocess.shape
    images = preprocess.samples
    assert isinstance(images, Images)
    fits = min(height, width * high // wide)
    side = int(fits * min(high, wide) / images.resize + 0.5)
    across = side * wide // high
    corner = (height - side) // 2, (width - across) // 2
    return mean_of_touched(frame, corner, (side, across), (high, wide))


def from_565(data: Array) -> Array:
    """Red, green and blue, uint8 [..., 3], of 16-bit pixels."""
    data = data.astype(np.int64)
    parts = [data >> 11, data >> 5 & 63, data & 31]
    scaled = [parts[0] * 33 // 4, parts[1] * 65 // 16, parts[2] * 33 // 4]
    return np.stack(scaled, -1).astype(np.uint8)


def read_samples(folder: Path, app: Application, name: str) -> tuple[list[Array], list[int]]:
    """The samples and labels of images.h or samples.h, as the network sees them."""
    if isinstance(app.preprocess.samples, Arrays):
        return _read_codes(folder, app, name)
    text = (folder / "images.h").read_text("ascii")
    sizes = {k: int(v) for k, v in re.findall(r"#define FRAME_(\w+) (\d+)", text)}
    (labels,) = re.findall(rf"{name}_label\[\w+\] = {{(.*?)}};", text)
    (body,) = re.findall(rf"uint8_t {name}\[.*?= {{(.*?)}};", text, re.DOTALL)
    data = np.array(re.findall(r"\d+", body), int).astype(np.uint8)
    shape = (-1, sizes["HEIGHT"], sizes["WIDTH"])
    colour = app.preprocess.channels == 3
    frames = from_565(data.view(">u2").reshape(shape)) if colour else data.reshape(*shape, 1)
    found = [middle(f, app.preprocess) for f in frames]
    if (normal := app.preprocess.samples.normalised) is not None:
        found = [normal.codes[x.astype(int) + 128, np.arange(3)] for x in found]
    return found, list(map(int, labels.split(",")))


def _read_codes(folder: Path, app: Application, name: str) -> tuple[list[Array], list[int]]:
    text = (folder / "samples.h").read_text("ascii")
    (labels,) = re.findall(rf"{name}_label\[\w+\] = {{(.*?)}};", text)
    (body,) = re.findall(rf"int8_t {name}\[.*?= {{(.*?)}};", text, re.DOTALL)
    codes = np.array(re.findall(r"-?\d+", body), int).astype(np.int8)
    return list(codes.reshape(-1, *app.preprocess.shape)), list(map(int, labels.split(",")))


def shuffled(count: int) -> Iterator[list[int]]:
    """The orders of the passes: Fisher and Yates, with the generator of Numerical Recipes."""
    order, random = list(range(count)), SEED
    while True:
        for i in range(count - 1, 0, -1):
            random = (random * 1664525 + 1013904223) % 2**32
            j = (random >> 16) % (i + 1)
            order[i], order[j] = order[j], order[i]
        yield list(order)


def thousandths(x: np.float32) -> str:
    """A float32 with three digits, as the example prints it."""
    n = int(x * np.float32(1000) + np.float32(0.5))
    return f"{n // 1000}.{n % 1000:03}"


def mean(xs: Sequence[float]) -> np.float32:
    """The sum, first number first, over their count; in float32."""
    total = np.float32(0)
    for x in xs:
        total = np.float32(total + np.float32(x))
    return np.float32(total / np.float32(len(xs)))


def said(app: Application, runner: Any, folder: Path, state: Array) -> list[str]:
    """What the example prints, from the calls of the driver; `state` are the bytes of its state."""
    driver, entries = Driver(runner), app.program.entries
    images, labels = read_samples(folder, app, "support")
    tests = read_samples(folder, app, "tests")
    marks = [np.array([label], np.int32) for label in labels]
    size = 1 if "apply" not in entries else app.group if "enrol_grad" not in entries else 10**6
    size = min(size, len(images))

    def samples(of: Sequence[int]) -> Iterator[Any]:
        return ((driver.show(images[i]), marks[i]) for i in of)

    def enrol() -> None:
        driver.enrol(samples(range(len(images))))

    lines = []

    def test(when: str) -> None:
        right = 0
        for x, label in zip(*tests, strict=True):
            found = int(driver.infer(x).argmax())
            right += found == label
            if found != label:
                names = [*app.pictures.names, *["a class that was never shown"] * app.ways]
                lines.append(f"  {names[label]} is taken for {names[found]}")
        lines.append(f"accuracy {when} training: {right} of {len(tests[0])}")

    enrol()
    test("before")
    orders, updates = shuffled(len(images)), 0
    for turn in range(app.passes if "step" in entries else 0):
        enrol()
        order, losses = next(orders), list[float]()
        rate = np.float32(app.rate) * np.float32(app.passes - turn) / np.float32(app.passes)
        for first in range(0, len(images), size):
            group = order[first : first + size]
            losses += driver.update(
                samples(group),
                samples(range(len(images))),
                share=float(np.float32(1) / np.float32(len(group))),
                rate=float(rate),
                clock=(SEED, updates),
                seen=turn * len(images) + first,
            )
            updates += 1
        lines.append(f"pass {turn + 1}: loss {thousandths(mean(losses))}")
    if "step" in entries:
        enrol()
        test("after")
    digest = 2166136261
    for byte in state.tolist():
        digest = (digest ^ byte) * 16777619 % 2**32
    return [*lines, f"state: {digest}"]
