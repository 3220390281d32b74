"""Sets of arrays: folders of .npy files, .npz and Parquet files, good and bad ones."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import windows
from PIL import Image

from kilograd.data import load_dataset, prepare
from kilograd.data.arrays import stored
from kilograd.errors import InputError
from kilograd.frontend import (
    Arrays,
    Preprocess,
)
from kilograd.ir import Affine, Array
from kilograd.layers.network import Taken

SHAPE = (12, 5, 2)


def samples(count: int = 8, kind: type = np.float32) -> Array:
    """Random windows, of two classes by turns that differ in the mean."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(count, *SHAPE)) + np.arange(count).reshape(-1, 1, 1, 1) % 2
    return found.astype(kind)


def in_folders(folder: Path, x: Array, names: Sequence[str] = ("fall", "walk")) -> Path:
    """A folder of class folders of .npy files."""
    for i, one in enumerate(x):
        place = folder / names[i % len(names)] / f"{i:03}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, one)
    return folder


def in_npz(folder: Path, x: Array, **more: Any) -> Path:
    file = folder / "windows.npz"
    np.savez(file, **{"x": x, "y": np.arange(len(x)) % 2} | more)
    return file


def in_parquet(folder: Path, x: Array, **more: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = folder / "windows.parquet"
    table = {"sample": x.tolist(), "label": [i % 2 for i in range(len(x))]} | more
    parquet.write_table(pa.table(table), file)
    return file


@pytest.mark.parametrize("write", [in_folders, in_npz, in_parquet])
def test_a_set_of_arrays_holds_what_was_put_in(
    tmp_path: Path, write: Callable[[Path, Array], Path]
) -> None:
    x = samples()
    dataset = load_dataset(write(tmp_path, x))
    order = [0, 2, 4, 6, 1, 3, 5, 7] if write is in_folders else range(8)
    assert dataset.labels.tolist() == [i % 2 for i in order]
    for i, wanted in enumerate(x[list(order)]):
        found = dataset.sample(i)
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, wanted)
        codes = dataset.prepared(i, windows.of_arrays().preprocess)
        assert np.array_equal(codes, np.clip(np.rint(wanted / np.float32(0.05)) + 4, -128, 127))


@pytest.mark.parametrize("kind", ["<f4", ">f4", ">f8", "<f2", "|i1", ">i2", "<u8", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_order_of_bytes_and_axes_is_read(tmp_path: Path, kind: str, order: str) -> None:
    x = np.asarray(samples(2) * 3, dtype=kind, order=order)  # type: ignore[call-overload]
    for i in range(2):
        (tmp_path / "ab"[i]).mkdir()
        np.save(tmp_path / "ab"[i] / "0.npy", np.asarray(x[i], order=order))  # type: ignore[call-overload]
    found = load_dataset(tmp_path).sample(1)
    assert isinstance(found, np.ndarray)
    assert found.flags.c_contiguous
    assert found.dtype.isnative
    assert np.array_equal(found, x[1])


def test_int8_is_codes_and_other_integers_are_real(tmp_path: Path) -> None:
    codes = np.arange(-60, 60, dtype=np.int8).reshape(SHAPE)
    network = windows.of_arrays().preprocess
    dataset = load_dataset(in_folders(tmp_path, np.stack([codes, codes])))
    assert np.array_equal(dataset.prepared(0, network), codes)
    wide = load_dataset(in_folders(tmp_path / "wide", np.stack([codes, codes]).astype(np.int16)))
    assert np.array_equal(wide.prepared(0, network), np.clip(codes.astype(int) * 20 + 4, -128, 127))


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ((49, 10), (49, 10, 1)),
        ((1, 49, 10), (49, 10, 1)),
        ((490,), (49, 10, 1)),
        ((30, 40), (30, 1, 40)),
        ((40, 30), (1, 40, 30)),
        ((7,), (1, 1, 7)),
        ((7, 1), (1, 1, 7)),
    ],
)
def test_arrays_of_fewer_axes_fit(given: tuple[int, ...], network: tuple[int, int, int]) -> None:
    x = np.arange(math.prod(given), dtype=np.float32).reshape(given)
    found = prepare(x, Preprocess(*network, Arrays(Affine((2.0,)))))
    assert np.array_equal(found, np.clip(np.rint(x / 2), -128, 127).reshape(network))


@pytest.mark.parametrize("given", [(6, 200), (1, 6, 200), (6, 200, 1)])
def test_axes_as_the_network_s_own_file_has_them(given: tuple[int, ...]) -> None:
    network = Preprocess(1, 200, 6, Arrays(Affine((2.0,)), Taken((6, 200), (1, 0))))
    x = np.arange(1200, dtype=np.float32).reshape(given) / 10
    found = prepare(x, network)
    assert np.array_equal(found[0], np.rint(x.reshape(6, 200).T / 2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((10, 49), r"has the shape \[10, 49\], and the network takes \[49, 10, 1\]; reorder"),
        ((49, 11), r"has the shape \[49, 11\]"),
        ((7, 7, 10), r"has the shape \[7, 7, 10\]"),
        ((1, 49, 10, 1), r"has the shape \[1, 49, 10, 1\]; a sample has 1 to 3 axes"),
    ],
)
def test_arrays_of_another_shape_are_refused(given: tuple[int, ...], words: str) -> None:
    network = Preprocess(49, 10, 1, Arrays(Affine((2.0,))))
    with pytest.raises(InputError, match=words):
        prepare(np.zeros(given), network)


def test_images_and_arrays_are_not_taken_for_each_other(tmp_path: Path) -> None:
    arrays = load_dataset(in_folders(tmp_path / "a", samples()))
    with pytest.raises(
        InputError, match=r"^a: sample fall/000.npy is an array of float32 .*images"
    ):
        arrays.prepared(0, windows.of_images().preprocess)
    (tmp_path / "b" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "b" / "cat" / "1.png")
    images = load_dataset(tmp_path / "b")
    with pytest.raises(InputError, match=r"^b: sample cat/1.png is an image, .*arrays of 12x5x2"):
        images.prepared(0, windows.of_arrays().preprocess)


def test_pixels_in_an_npz_are_images_to_a_network_of_images(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 12, 20, 3)).astype(np.uint8)
    dataset = load_dataset(in_npz(tmp_path, x))
    network = windows.of_images(12, 20).preprocess
    assert np.array_equal(dataset.prepared(1, network), prepare(Image.fromarray(x[1]), network))
    grey = load_dataset(in_npz(tmp_path, x[..., :1]))
    assert dataset.image(1).mode == "RGB"
    assert grey.image(1).mode == "L"


def test_an_npz_may_name_classes_and_splits(tmp_path: Path) -> None:
    split = np.array(["train", "val", "test", "train"] * 2)
    file = in_npz(tmp_path, samples(), classes=np.array(["fall", "walk"]), split=split)
    dataset = load_dataset(file)
    assert (dataset.name, dataset.classes) == ("windows", ("fall", "walk"))
    assert dataset.split == tuple(split.tolist())
    assert dataset.image_names[2] == "x[2]"
    names = np.array(["walk", "fall"] * 4)
    other = load_dataset(in_npz(tmp_path, samples(), y=names.astype(bytes)))
    assert (other.classes, other.labels.tolist()) == (("fall", "walk"), [1, 0] * 4)
    column = load_dataset(in_npz(tmp_path, samples(), y=np.arange(8).reshape(8, 1) % 2))
    assert column.classes == ("0", "1")


def test_a_parquet_file_may_say_shapes(tmp_path: Path) -> None:
    x = samples()
    flat = x.reshape(8, -1).tolist()
    dataset = load_dataset(in_parquet(tmp_path, x, sample=flat, shape=[list(SHAPE)] * 8))
    assert np.array_equal(np.asarray(dataset.sample(3)), x[3])
    again = load_dataset(in_parquet(tmp_path, x, sample=flat))
    assert np.array_equal(np.asarray(again.sample(3)), x[3].reshape(-1))


def test_parquet_tensors_and_lists_of_fixed_length_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    x = samples()
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    numbers = pa.array(x.astype(np.int16).reshape(-1))
    fixed = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(numbers, 10), 12)
    for column, wanted in ((tensors, x), (fixed, x.astype(np.int16).reshape(8, 12, 10))):
        found = load_dataset(in_parquet(tmp_path, x, sample=column)).sample(5)
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted[5])


def bad_array(what: str) -> bytes:
    """A .npy file with a defect."""
    whole = stored(np.zeros(SHAPE, np.float32))
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
    texts = {
        "truncated": whole[:-3],
        "longer": whole + b"more",
        "no array": b"hello",
        "header cut": whole[:30],
        "text": stored(np.array(["a", "b"])),
        "huge": _npy(head % b"(1099511627776,)"),
        "negative": _npy(head % b"(-4, -4)"),
        "shape of text": _npy(head % b"('a',)"),
        "deep": _npy(head % (b"(" * 3000 + b")" * 3000)),
        "long header": _npy(head % (b"(" + b"1," * 9000 + b")")),
        "no header": _npy(b"__import__('os').abort()"),
        "subarrays": _npy(head.replace(b"'<f4'", b"('<f4', (3,))") % b"(4,)"),
        "version": whole.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        "empty": stored(np.zeros((0, 5), np.float32)),
        "four axes": stored(np.zeros((2, 2, 2, 2), np.float32)),
        "complex": stored(np.zeros(3, np.complex64)),
        "dates": stored(np.zeros(3, "datetime64[s]")),
        "nan": stored(np.array([0, np.nan], np.float32)),
        "inf": stored(np.array([[0, 1], [-np.inf, 0]], np.float16)),
    }
    return texts[what]


def _npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


BAD = {
    "truncated": "holds 477 bytes of numbers, but says 480",
    "longer": "holds 484 bytes of numbers, but says 480",
    **dict.fromkeys(("no array", "header cut", "shape of text"), "cannot be read as an array"),
    **dict.fromkeys(("deep", "long header", "no header", "version"), "cannot be read as an array"),
    "text": "holds <U1, no real numbers",
    "huge": "holds 0 bytes of numbers, but says 4,398,046,511,104",
    "negative": "has a shape that is none",
    "subarrays": "no real numbers",
    **dict.fromkeys(("complex", "dates"), "no real numbers"),
    "empty": r"has the shape \[0, 5\]",
    "four axes": r"has the shape \[2, 2, 2, 2\]",
    "nan": "number 1 of 2 is nan",
    "inf": "number 2 of 4 is -inf",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_array_is_named(tmp_path: Path, what: str) -> None:
    in_folders(tmp_path / "set", samples(2))
    (tmp_path / "set" / "walk" / "001.npy").write_bytes(bad_array(what))
    with pytest.raises(InputError, match=rf"set: sample walk/001.npy: .*{BAD[what]}"):
        load_dataset(tmp_path / "set")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    in_folders(tmp_path / "set", samples(2))
    file = tmp_path / "set" / "fall" / "000.npy"
    np.save(file, np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match=r"fall/000.npy: .*object, no real numbers"):
        load_dataset(tmp_path / "set")
    whole = in_npz(tmp_path, np.array([[Trap()]], dtype=object), y=[0])
    with pytest.raises(InputError, match=r"windows.npz: x holds object, no real numbers"):
        load_dataset(whole)


class Trap:
    """What may never be unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return os.abort, ()


def test_samples_of_several_shapes_are_refused(tmp_path: Path) -> None:
    in_folders(tmp_path / "set", samples(4))
    np.save(tmp_path / "set" / "walk" / "001.npy", np.zeros((12, 6, 2)))
    with pytest.raises(
        InputError,
        match=r"walk/001.npy: has the shape \[12, 6, 2\], and .*fall/000.npy has \[12, 5",
    ):
        load_dataset(tmp_path / "set")


def test_arrays_beside_photos_are_passed_over(tmp_path: Path) -> None:
    in_folders(tmp_path / "set", samples(2))
    Image.new("L", (8, 8)).save(tmp_path / "set" / "fall" / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "set" / "walk" / "b.png")
    assert load_dataset(tmp_path / "set").image_names == ("fall/a.png", "walk/b.png")


def zipped(folder: Path, members: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    file = folder / "bad.npz"
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def changed(folder: Path, change: Callable[[bytearray], None]) -> Path:
    """A .npz file in which some bytes are others."""
    file = zipped(folder, {"x.npy": stored(samples(4)), "y.npy": stored(np.arange(4) % 2)})
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)
    return file


def _flip(data: bytearray) -> None:
    data[200] ^= 1


def _bomb(data: bytearray) -> None:
    at = data.find(b"PK\x01\x02") + 24
    data[at : at + 4] = (0xF0000000).to_bytes(4, "little")


def _twice(data: bytearray) -> None:
    data[:] = data.replace(b"y.npy", b"x.npy")


X, Y = stored(samples(4)), stored(np.arange(4) % 2)
HOLED = samples(4)
HOLED[2, 0, 0, 1] = np.nan
BAD_NPZ: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut": (lambda f: changed(f, lambda d: d.__delitem__(slice(-9, None))), "one that was cut off"),
    "damaged": (lambda f: changed(f, _flip), "cannot be read as .npz"),
    "bomb": (lambda f: changed(f, _bomb), "holds 4,026,53.* bytes when unpacked"),
    "twice": (lambda f: changed(f, _twice), "holds x twice"),
    "many": (lambda f: zipped(f, {f"{i}.npy": b"" for i in range(300)}), "more than 256 arrays"),
    "lzma": (lambda f: zipped(f, {"x.npy": X, "y.npy": Y}, zipfile.ZIP_LZMA), "x is packed in a"),
    "no x": (lambda f: zipped(f, {"y.npy": Y}), "has none of x and samples"),
    "no y": (lambda f: zipped(f, {"x.npy": X}), "has none of y and labels"),
    "both": (lambda f: zipped(f, {"x.npy": X, "samples.npy": X, "y.npy": Y}), "has both of x and"),
    "labels": (
        lambda f: zipped(f, {"x.npy": X, "y.npy": stored(np.zeros((4, 2)))}),
        r"y has the shape \[4, 2\]",
    ),
    "real labels": (
        lambda f: zipped(f, {"x.npy": X, "y.npy": stored(np.zeros(4))}),
        "y holds float64; give integers or text",
    ),
    "one sample": (
        lambda f: zipped(f, {"x.npy": stored(np.zeros(4)), "y.npy": Y}),
        r"x has the shape \[4\]",
    ),
    "few classes": (
        lambda f: zipped(f, {"x.npy": X, "y.npy": Y, "classes.npy": stored(np.array(["a"]))}),
        "row 1 has label 1, but the class list has 1 names",
    ),
    "no classes": (
        lambda f: zipped(f, {"x.npy": X, "y.npy": Y, "classes.npy": Y}),
        "classes holds int64",
    ),
    "nan": (
        lambda f: zipped(f, {"x.npy": stored(HOLED), "y.npy": Y}),
        r"sample x\[2\]: number 1 of 120 is nan",
    ),
    "no sample": (
        lambda f: zipped(f, {"x.npy": stored(samples(4)[:0]), "y.npy": stored(np.arange(0))}),
        r"x has the shape \[0, 12, 5, 2\]; it needs a first axis, \[n\], and a",
    ),
}


@pytest.mark.parametrize("what", BAD_NPZ)
def test_a_bad_npz_is_named(tmp_path: Path, what: str) -> None:
    make, words = BAD_NPZ[what]
    with pytest.raises(InputError, match=f"bad.npz: .*{words}"):
        load_dataset(make(tmp_path))


@pytest.mark.parametrize(
    ("column", "more", "words"),
    [
        ([[1.0, 2.0], [1.0]], {}, r"row 1: has the shape \[1\]"),
        ([[[1.0], [2.0, 3.0]]], {}, "row 0 is ragged: its lists hold 1 to 2 values"),
        ([[1.0, None]], {}, "row 0 has a hole"),
        ([[[1.0], None]], {}, "row 0 has a hole"),
        ([["a"]], {}, "row 0 holds string, no numbers"),
        ([[[[[1.0]]]]], {}, "row 0 has more than 3 axes"),
        ([[float("nan")]], {}, "sample row 0: number 0 of 1 is nan"),
        ([[1.0, 2.0]], {"shape": [[3]]}, r"row 0 has 2 numbers, and says that its shape is \[3\]"),
        ([[1.0, 2.0]], {"shape": [[-1, -2]]}, "row 0 has 2 numbers"),
        ([[1.0, 2.0]], {"shape": ["x"]}, "row 0 has 2 numbers"),
        ([[]], {}, "row 0 holds null, no numbers"),
    ],
)
def test_a_bad_row_of_a_parquet_file_is_named(
    tmp_path: Path, column: list[Any], more: dict[str, Any], words: str
) -> None:
    file = in_parquet(tmp_path, samples(len(column)), sample=column, **more)
    with pytest.raises(InputError, match=rf"windows.parquet: .*{words}|{words}"):
        load_dataset(file)


def test_rows_that_are_missing_are_left_out(tmp_path: Path) -> None:
    dataset = load_dataset(in_parquet(tmp_path, samples(2), sample=[[1.0, 2.0], None]))
    assert dataset.skipped == ("row 1",)
