"""Data sets: trees of folders, pictures, lists, Parquet tables and HDF5 files."""

from __future__ import annotations

import functools
import io
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.case import Case, Target
from fuzz.mutate import NUMBERS, TEXTS, flipped, mutated_json, mutated_text
from kilograd.data import Dataset, load_dataset, prepare, sample_episode
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

INPUT = Preprocess.square(8, 9, 3)
_SIDES = (37, 29)
_OUTSIDE = 77
"""The shade of a picture that is not in the folder."""
_UP = "../../seeds/outside.png"
"""The way there from the folder."""


def look(root: Path, *, deep: bool) -> None:
    """Load a data set, and see that it is one."""
    dataset = load_dataset(root)
    assert len(set(dataset.classes)) == len(dataset.classes)
    for name in (*dataset.classes, *dataset.image_names, *dataset.skipped):
        assert name.isprintable(), f"a name that no terminal should get: {name!r}"
        assert 0 < len(name) <= 500, f"a name of {len(name)} characters"
    for source in dataset.images:
        if isinstance(source, Path):
            assert source.resolve().is_relative_to(root.resolve()), f"outside the folder: {source}"
    _see(dataset)
    if deep:
        with suppress(InputError):  # it may be too small, and is called by its name
            sample_episode(dataset, ways=None, shots=1, queries=1, seed=0)


def _see(dataset: Dataset) -> None:
    for i in {0, len(dataset) - 1}:
        pixels = prepare(dataset.image(i), INPUT)
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.int8
        assert not (pixels == _OUTSIDE - 128).all(), "a picture from outside the folder"


def encoded(kind: str, mode: str, size: tuple[int, int] = _SIDES) -> bytes:
    """Return a picture of noise."""
    rng = np.random.default_rng(zlib.crc32(mode.encode()))
    data = io.BytesIO()
    if mode.startswith("I;16"):
        image = Image.fromarray(rng.integers(0, 1 << 16, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(
            mode
        )
    image.save(data, kind)
    return data.getvalue()


@functools.cache
def samples() -> dict[str, tuple[bytes, ...]]:
    """Return pictures of every format that is read, by suffix."""
    modes = {
        "png": ("PNG", ("RGB", "L", "LA", "P", "1", "I;16", "RGBA")),
        "jpg": ("JPEG", ("RGB", "L", "CMYK")),
        "bmp": ("BMP", ("RGB", "P", "1")),
        "gif": ("GIF", ("P", "L")),
        "webp": ("WEBP", ("RGB", "RGBA")),
        "tif": ("TIFF", ("RGB", "L", "LA", "CMYK", "I;16", "1")),
        "ppm": ("PPM", ("RGB", "L")),
    }
    return {suffix: tuple(encoded(kind, m) for m in some) for suffix, (kind, some) in modes.items()}


@functools.cache
def bombs() -> tuple[bytes, ...]:
    """Return small files that are large pictures."""
    found = []
    for mode, sides in (("L", (13_000, 13_000)), ("I;16", (8000, 8000)), ("LA", (9000, 9000))):
        data = io.BytesIO()
        Image.new(mode, sides).save(data, "PNG", compress_level=1)
        found.append(data.getvalue())
    return tuple(found)


def mutated_picture(rng: Random, data: bytes) -> bytes:
    """Flip bytes, or say another size."""
    if rng.random() < 0.002:
        return rng.choice(bombs())
    if rng.random() < 0.2:
        data = _with_odd_block(rng, data)
    elif rng.random() < 0.6:
        data = flipped(rng, data)
    else:
        side = rng.choice(_SIDES)
        for code in rng.sample(("<I", ">I", "<H", ">H"), 4):
            if struct.pack(code, side) in data[:200]:
                top = 1 << 8 * struct.calcsize(code)
                new = rng.choice((0, 1, 65_000, 13_000, 30_000, top // 2, top - 1)) % top
                data = data.replace(struct.pack(code, side), struct.pack(code, new), 1)
                break
        else:
            data = data.replace(str(side).encode(), rng.choice(NUMBERS).encode(), 1)
    return _summed(data) if rng.random() < 0.8 else data


def _with_odd_block(rng: Random, data: bytes) -> bytes:
    """Put in what stands beside the pixels: EXIF blocks, transparency, more scans."""
    entry = struct.pack("<HHII", 0x112, rng.randrange(20), rng.choice((0, 1, 2, 100_000)), 8)
    exif = b"II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    exif = rng.choice((exif, exif[: rng.randrange(len(exif))], flipped(rng, exif)))
    if data.startswith(b"\xff\xd8"):
        block = b"Exif\0\0" + exif
        scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0"
        block = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        return data[:2] + rng.choice((block, block, block * 2000, scan * 5000)) + data[2:]
    if data.startswith(b"\x89PNG"):
        raw = b"Raw profile type exif\0\nexif\n 9\n"
        name, block = rng.choice(
            (
                (b"eXIf", exif),
                (b"tEXt", raw + rng.choice((exif.hex().encode(), exif))),
                (b"tRNS", bytes(rng.choice((0, 1, 2, 6, 256, 2000)))),
            )
        )
        at = max(33, data.find(b"IDAT") - 4)
        return data[:at] + struct.pack(">I", len(block)) + name + block + bytes(4) + data[at:]
    return flipped(rng, data)


def _summed(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that it is read on."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        if length > len(data):
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]


class Pixels(Target):
    """Pictures in two classes."""

    share = 1.2
    deep = 50
    sample = 40

    def make(self, rng: Random) -> Case:
        suffix = rng.choice(sorted(samples()))
        broken = mutated_picture(rng, rng.choice(samples()[suffix]))
        whole = samples()["png"][0]
        other = rng.choice((suffix, suffix, "PNG", rng.choice(sorted(samples()))))
        return {f"a/0.{other}": broken, "a/1.png": whole, "b/0.png": whole}

    def check(self, folder: Path, *, deep: bool) -> None:
        look(folder, deep=deep)


class Tree(Target):
    """Folders with names, files and links that nobody would make by mistake."""

    deep = 4
    sample = 60

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        Image.new("RGB", (9, 9), (_OUTSIDE,) * 3).save(home / "outside.png")
        self.small = tuple(encoded(kind, "RGB", (5, 4)) for kind in ("PNG", "BMP", "PPM"))

    def make(self, rng: Random) -> Case:
        folders = ["red", "green", "a/red", "a/blue"] if rng.random() < 0.5 else ["red", "blue"]
        if rng.random() < 0.2:
            folders = ["train/red", "train/blue", "test/red", "test/blue", "val/red"]
        files: dict[str, bytes | str] = {
            f"{f}/{i}.png": rng.choice(self.small)
            for f in folders
            for i in range(rng.choice((1, 2, 3)))
        }
        for _ in range(rng.choice((1, 1, 2, 4))):
            name = rng.choice(
                (*TEXTS, "e\u0301a", "Red", "red ", "train", "CON", "x" * 250, ".git")
            )
            inside = rng.choice(folders)
            place = rng.choice(
                (name, f"{name}/0.png", f"{inside}/{name}.png", f"{inside}/{name}/1.png")
            )
            if rng.random() < 0.3:
                to = (
                    "..",
                    ".",
                    "/",
                    "/dev/zero",
                    "../red",
                    f"../{_UP}",
                    _UP,
                    "../..",
                    "../../red/0.png",
                )
                files[rng.choice((place, f"{inside}/9.png", "more"))] = rng.choice(to)
            else:
                content = rng.choice(self.small)
                files[place] = content if rng.random() < 0.8 else flipped(rng, content)
        return {n: x for n, x in files.items() if not n.startswith("/") and ".." not in n}

    def check(self, folder: Path, *, deep: bool) -> None:
        look(folder, deep=deep)


class Lists(Target):
    """The lists of miniImageNet."""

    deep = 4
    _ROWS = "filename,label\n0.png,red\n1.png,red\n2.png,blue\n3.png,blue\n"

    def make(self, rng: Random) -> Case:
        files: dict[str, bytes | str] = {
            f"images/{i}.png": samples()["png"][i % 2] for i in range(rng.choice((1, 4)))
        }
        if rng.random() < 0.2:
            files["images/5.png"] = rng.choice((f"../{_UP}", "/dev/zero", "5.png"))
        for split in rng.sample(("train.csv", "val.csv", "test.csv"), rng.choice((1, 1, 2))):
            text = self._ROWS
            if "images/5.png" in files and rng.random() < 0.5:
                text += "5.png,red\n"
            for _ in range(rng.choice((1, 2))):
                text = mutated_text(rng, text)
            data = text.encode("utf-8", "surrogatepass")
            files[split] = flipped(rng, data) if rng.random() < 0.2 else data
        return files

    def check(self, folder: Path, *, deep: bool) -> None:
        look(folder, deep=deep)


class Table(Target):
    """Parquet files: odd types, columns twice, other people's metadata, damaged bytes."""

    share = 1.2
    deep = 10
    sample = 60

    def make(self, rng: Random) -> Case:
        return {"set.parquet": self._bytes(rng)}

    def _bytes(self, rng: Random) -> bytes:
        import pyarrow as pa
        from pyarrow import parquet

        if rng.random() < 0.004:
            return _many_rows()
        rows = rng.choice((0, 1, 2, 4, 4, 4))
        columns = [
            *(("image", self._images(rng, rows)), ("label", self._labels(rng, rows))),
            *(("class_name", self._names(rng, rows)), ("split", self._names(rng, rows))),
        ]
        kept = [c for c in columns if rng.random() < (0.97 if c[0] in {"image", "label"} else 0.5)]
        if rng.random() < 0.1 and kept:
            kept.append((rng.choice(kept)[0], rng.choice(columns)[1]))
        table = pa.table([x for _, x in kept], names=[n for n, _ in kept])
        if rng.random() < 0.5:
            declared = (
                b'{"classes": ["red", "blue"], "name": "x", "features": {"label": {"names": []}}}'
            )
            named = b'{"names": ["red", "blue"], "_type": "ClassLabel"}'
            hugging = b'{"info": {"features": {"label": ' + named + b"}}}"
            chosen = {b"dataset": declared, b"huggingface": hugging}
            some = rng.choice(sorted(chosen))
            table = table.replace_schema_metadata({some: mutated_json(rng, chosen[some])})
        data = io.BytesIO()
        parquet.write_table(table, data)
        return flipped(rng, data.getvalue()) if rng.random() < 0.3 else data.getvalue()

    def _images(self, rng: Random, rows: int) -> Any:
        import pyarrow as pa

        data = [rng.choice(samples()[rng.choice(("png", "jpg"))][:2]) for _ in range(rows)]
        match rng.randrange(9):
            case 0 | 1 | 2:
                return pa.array(data, pa.binary())
            case 3 | 4:
                path = _broken_text(rng, rows) if rng.random() < 0.3 else pa.array(["a\x1b"] * rows)
                return pa.StructArray.from_arrays(
                    [pa.array(data, pa.binary()), path], ["bytes", "path"]
                )
            case 5:
                return pa.array(
                    [None if rng.random() < 0.5 else x for x in data], pa.large_binary()
                )
            case 6:
                return pa.array([flipped(rng, x) for x in data], pa.binary())
            case 7:
                return pa.array([[1, 2]] * rows)
        return pa.array(["text"] * rows)

    def _labels(self, rng: Random, rows: int) -> Any:
        import pyarrow as pa

        match rng.randrange(8):
            case 0 | 1 | 2:
                return pa.array([i % 2 for i in range(rows)], rng.choice((pa.int64(), pa.uint8())))
            case 3:
                return pa.array([rng.choice((None, True, False)) for _ in range(rows)])
            case 4:
                return pa.array(
                    [rng.choice((-1, 1 << 62, 0, None)) for _ in range(rows)], pa.int64()
                )
            case 5:
                return pa.array([rng.choice((0.5, float("nan"), 1.0)) for _ in range(rows)])
            case 6:
                return pa.array(list(range(rows)), pa.timestamp("s"))
        return self._names(rng, rows)

    def _names(self, rng: Random, rows: int) -> Any:
        import pyarrow as pa

        if rng.random() < 0.2:
            return _broken_text(rng, rows)
        texts = [x for x in TEXTS if x != "\ud800"] if rng.random() < 0.4 else ["red", "blue"]
        names = [rng.choice(texts) for _ in range(rows)]
        array = pa.array(names, pa.string())
        return array.dictionary_encode() if rng.random() < 0.2 else array

    def check(self, folder: Path, *, deep: bool) -> None:
        look(folder / "set.parquet", deep=deep)


def _broken_text(rng: Random, rows: int) -> Any:
    """Return text that is no UTF-8."""
    import pyarrow as pa

    raw = pa.array(
        [rng.choice((b"\xff", b"red", b"\xed\xa0\x80")) for _ in range(rows)], pa.binary()
    )
    return pa.Array.from_buffers(pa.string(), rows, raw.buffers())


@functools.cache
def _many_rows() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    rows = 20_000_000
    one = pa.array([b"x"], pa.binary())
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), one)
    data = io.BytesIO()
    table = pa.table({"image": image, "label": pa.array(np.zeros(rows, np.int8))})
    parquet.write_table(table, data)
    return data.getvalue()


class Meta(Target):
    """Meta-Dataset as HDF5."""

    share = 1.2
    deep = 10
    sample = 60

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        flat = {
            "name": "flat",
            "classes_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 1},
            "class_names": {"0": "red", "1": "blue"},
            "images_per_class": {"0": 2, "1": 2},
        }
        deep = {
            "name": "two levels",
            "superclasses_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 1},
            "classes_per_superclass": {"0": 1, "1": 1},
            "superclass_names": {"0": "a", "1": "b"},
            "class_names": {"0": "red", "1": "blue"},
            "images_per_class": {"0": 2, "1": 2},
        }
        self.specs = tuple(json.dumps(x).encode() for x in (flat, deep))
        (home / "outside.h5").write_bytes(_h5([np.full((9, 9, 3), _OUTSIDE, np.uint8)] * 2))
        self.whole = _h5([np.zeros((5, 4, 3), np.uint8)] * 2)

    def make(self, rng: Random) -> Case:
        spec = rng.choice(self.specs)
        files = {"0.h5": self.whole, "1.h5": self.whole}
        kind = rng.random()
        if kind < 0.4:
            spec = mutated_json(rng, spec)
        elif kind < 0.8:
            files["0.h5"] = self._odd(rng)
        else:
            files["0.h5"] = flipped(rng, self.whole)
        return {"dataset_spec.json": spec, **files}

    def _odd(self, rng: Random) -> bytes:
        shapes = (
            (5, 4, 3),
            (5, 4),
            (0, 4, 3),
            (5, 4, 1),
            (5, 4, 4),
            (5,),
            (),
            (1, 1, 3),
            (1, 900, 3),
        )
        kinds = (np.uint8, np.uint8, np.uint8, np.int8, np.uint16, np.float32, bool)
        made = [np.ones(rng.choice(shapes), rng.choice(kinds)) for _ in range(2)]
        return _h5(made, rng.choice(("", "", "", "soft", "outside", "huge", "group", "attribute")))

    def check(self, folder: Path, *, deep: bool) -> None:
        look(folder, deep=deep)


def _h5(images: list[Any], odd: str = "") -> bytes:
    """Return the file of a class."""
    import h5py

    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for i, image in enumerate(images):
            file[f"{i}/image"] = image
        match odd:
            case "soft":
                del file["0/image"]
                file["0/image"] = h5py.SoftLink("/0/image")
            case "outside":
                del file["0/image"]
                file["0/image"] = h5py.ExternalLink(_UP.replace("png", "h5"), "/0/image")
            case "huge":
                del file["0/image"]
                file.create_dataset("0/image", (60_000, 60_000), np.uint8, chunks=(64, 64))
            case "group":
                del file["1/image"]
                file.create_group("1/image")
            case "attribute":
                file["1/image"].attrs["x" * 300] = "y"
    return data.getvalue()
