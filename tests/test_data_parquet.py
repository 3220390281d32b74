"""Parquet files: what is read, what is refused, and how much memory it takes."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SHARED, needs_shared
from memory import kilobytes
from pictures import encode, photo, truncated, write

from kilograd import limits
from kilograd.data import load_dataset, prepare
from kilograd.data.parquet import _Values
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

SHARED_FILES = [] if SHARED is None else sorted((SHARED / "data").glob("*.parquet"))


def write_parquet(
    path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None
) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns)
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    return path


def images(n: int) -> list[bytes]:
    return [encode(photo(seed)) for seed in range(n)]


def test_parquet_with_every_column_and_metadata(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "pets.parquet",
        {
            "image": images(4),
            "label": [2, 0, 2, 0],
            "class_name": ["dog", "cat", "dog", "cat"],
            "split": ["Train", "validation", "test", "extra"],
            "source": ["w", "x", "y", "z"],
        },
        {"dataset": json.dumps({"classes": ["cat", "cow", "dog"]})},
    )
    dataset = load_dataset(path)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "cow", "dog")
    assert dataset.labels.tolist() == [2, 0, 2, 0]
    assert dataset.split == ("train", "val", "test", "extra")
    assert dataset.skipped == ()
    np.testing.assert_array_equal(np.asarray(dataset.image(3)), np.asarray(photo(3)))


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"]}}
    path = write_parquet(
        tmp_path / "hf.parquet",
        {
            "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images(3))],
            "label": [1, 0, 1],
        },
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    dataset = load_dataset(path)
    assert dataset.classes == ("no", "yes")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.image_names == ("row 0 (0.png)", "row 1 (1.png)", "row 2 (2.png)")


@pytest.mark.parametrize(
    ("columns", "classes", "labels"),
    [
        ({"class_name": ["b", "a", "b"]}, ("a", "b"), [1, 0, 1]),
        ({"label": ["b", "a", "b"]}, ("a", "b"), [1, 0, 1]),
        ({"label": [10, 9, 10]}, ("9", "10"), [1, 0, 1]),
        ({"label": [7, 3, 7], "class_name": ["a", "b", "a"]}, ("b", "a"), [1, 0, 1]),
    ],
)
def test_classes_from_the_columns_alone(
    tmp_path: Path, columns: dict[str, list[Any]], classes: tuple[str, ...], labels: list[int]
) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"image": images(3), **columns}, {"dataset": "no JSON"}
    )
    dataset = load_dataset(path)
    assert (dataset.classes, dataset.labels.tolist()) == (classes, labels)


def test_unreadable_rows_are_left_out_and_named(tmp_path: Path) -> None:
    good = images(1)[0]
    path = write_parquet(
        tmp_path / "x.parquet",
        {
            "image": [
                {"bytes": truncated("JPEG"), "path": "a.jpg"},
                {"bytes": good, "path": None},
                {"bytes": None, "path": "elsewhere.jpg"},
                None,
            ],
            "label": [0, 1, 0, 1],
            "split": ["train", "test", "train", "test"],
        },
    )
    dataset = load_dataset(path)
    assert dataset.skipped == ("row 0 (a.jpg)", "row 2 (elsewhere.jpg)", "row 3")
    assert dataset.image_names == ("row 1",)
    assert (dataset.labels.tolist(), dataset.split) == ([1], ("test",))


@pytest.mark.parametrize(
    ("classes", "groups"),
    [
        (["x/1", "x/2", "y/1", "y/2"], ("x", "x", "y", "y")),
        (["x/1/a", "x/1/b"], ("x/1", "x/1")),
        (["x/1", "x/2", "y/1"], None),
        (["x/1", "x/2", "y"], None),
        (["/1", "/2"], None),
    ],
)
def test_groups_come_from_class_names(
    tmp_path: Path, classes: list[str], groups: tuple[str, ...] | None
) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"image": images(len(classes)), "class_name": classes}
    )
    assert load_dataset(path).groups == groups


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        ({"image": [b"x"]}, None, "needs a column 'image' .* it has image$"),
        ({"label": [0]}, None, "needs a column 'image' .* it has label$"),
        ({"image": [], "label": []}, None, "the file has no rows"),
        ({"image": [b"x"], "label": [0]}, None, r"no image in it can be read \(1 tried"),
        ({"image": ["x"], "label": [0]}, None, "must hold encoded image bytes, or lists .* row 0"),
        ({"image": [{"path": "x"}], "label": [0]}, None, "must hold encoded image bytes"),
        ({"image": [b"x"], "label": [[1]]}, None, "column 'label' holds list"),
        ({"image": [b"x"], "class_name": ["a\x1b"]}, None, r"holds the character '\\x1b'"),
        ({"image": [b"x"], "label": [0], "split": ["\u202e"]}, None, r"the split of row 0"),
        ({"image": [b"x"] * 2, "label": ["\u00e9", "e\u0301"]}, None, "two classes are called"),
        ({"image": [b"x"] * 2, "label": [0, None]}, None, "row 1 has no label"),
        ({"image": [b"x"], "class_name": [None]}, None, "row 0 has no class_name"),
        ({"image": [b"x"], "label": [0.5]}, None, "neither an integer nor text"),
        ({"image": [b"x"], "class_name": [5]}, None, "a class name is not text"),
        ({"image": [b"x"], "label": [0], "split": [None]}, None, "row 0 has no split"),
        ({"image": [b"x"], "label": [2]}, {"classes": ["a", "b"]}, "label 2, but .* has 2 names"),
        ({"image": [b"x"], "label": [-1]}, {"classes": ["a", "b"]}, "row 0 has label -1"),
        ({"image": [b"x"], "label": [0]}, {"classes": ["a", "a"]}, "two classes"),
        ({"image": [b"x"], "label": [0]}, {"classes": [1]}, "without repeats"),
        (
            {"image": [b"x"], "label": [1], "class_name": ["a"]},
            {"classes": ["a", "b"]},
            "row 0 has class_name 'a', but label 1 is 'b'",
        ),
        (
            {"image": [b"x"] * 2, "label": [1, 1], "class_name": ["a", "b"]},
            None,
            "is 'b' elsewhere",
        ),
        ({"image": [b"x"] * 2, "label": [0, 1], "class_name": ["a", "a"]}, None, "share one"),
    ],
)
def test_unusable_parquet_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], metadata: dict[str, Any] | None, message: str
) -> None:
    encoded = None if metadata is None else {"dataset": json.dumps(metadata)}
    path = write_parquet(tmp_path / "x.parquet", columns, encoded)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_that_says_the_same_megabyte_of_every_row(tmp_path: Path) -> None:
    """2 KB on the disk, 1 GB for a reader that unpacks each row."""
    arrow = pytest.importorskip("pyarrow")
    image = images(1)[0] + bytes(1 << 20)
    for column in (
        arrow.DictionaryArray.from_arrays(arrow.array([0] * 1000), arrow.array([image])),
        arrow.array([{"bytes": image, "path": "a" * 1000}]).take(arrow.array([0] * 1000)),
    ):
        path = write_parquet(tmp_path / "x.parquet", {"image": column, "label": [0] * len(column)})
        held = resident_mb()
        dataset = load_dataset(path)
        assert len(dataset) == len(column)
        assert resident_mb() - held < 300


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_parquet_of_more_rows_than_the_limit_is_not_read(tmp_path: Path) -> None:
    """102 KB took more than a minute."""
    arrow = pytest.importorskip("pyarrow")
    count = 3 * 10**6
    column = arrow.nulls(count, arrow.binary())
    path = write_parquet(tmp_path / "x.parquet", {"image": column, "label": np.zeros(count, int)})
    start = time.perf_counter()
    with pytest.raises(InputError, match="more images than 2,097,152"):
        load_dataset(path)
    assert time.perf_counter() - start < 2


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for twice in ("label", "image"):
        names = ["image", "label", twice]
        columns = {"image": images(1), "label": [0]}
        table = arrow.table([arrow.array(columns[n]) for n in names], names=names)
        parquet.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match=f"has 2 columns '{twice}'"):
            load_dataset(tmp_path / "x.parquet")


@pytest.mark.parametrize("column", ["class_name", "label", "split", "path"])
def test_parquet_with_text_that_is_no_utf8(tmp_path: Path, column: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    bad = arrow.array([b"a\xff"]).view(arrow.string())
    columns = {"image": arrow.array(images(1)), "label": arrow.array([0])}
    if column == "path":
        fields = [columns["image"], bad]
        columns["image"] = arrow.StructArray.from_arrays(fields, names=["bytes", "path"])
    else:
        columns[column] = bad
    path = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_dataset(path)


def test_parquet_that_ended_the_process() -> None:
    """A byte of its footer is damaged: pyarrow 26 aborts where that column is looked at."""
    pytest.importorskip("pyarrow")
    path = Path(__file__).parent / "damaged" / "histogram.parquet"
    command = "from kilograd.data import load_dataset; import sys; load_dataset(sys.argv[1])"
    words = [sys.executable, "-c", command, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert done.returncode == 1


@pytest.mark.parametrize("index", [5, -1])
def test_parquet_whose_rows_name_values_that_are_not_there(index: int) -> None:
    arrow = pytest.importorskip("pyarrow")
    indices = arrow.array([0, index], arrow.int32())
    column = arrow.DictionaryArray.from_arrays(indices, arrow.array([b"a"]), safe=False)
    with pytest.raises(arrow.ArrowInvalid, match="out of bounds"):
        _Values(Path("x.parquet")).of(column)


def with_lying_footer(path: Path, rows: int, size: int) -> Path:
    """Write rows that are groups of their own, and a footer that says of each: one byte."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [encode(photo()) + bytes([i]) + bytes(size) for i in range(rows)]
    table = arrow.table({"image": arrow.array(images, arrow.large_binary()), "label": ["a"] * rows})
    options = {"compression": "zstd", "row_group_size": 1, "use_dictionary": False}
    parquet.write_table(table, path, write_statistics=False, store_schema=False, **options)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:]
    about = parquet.ParquetFile(path).metadata
    for said in {about.row_group(g).total_byte_size for g in range(rows)}:
        number = varint(2 * said)
        footer = footer.replace(number, bytes([0x82, *[0x80] * (len(number) - 2), 0]))
    path.write_bytes(data[:start] + footer)
    about = parquet.ParquetFile(path).metadata
    assert [about.row_group(g).total_byte_size for g in range(rows)] == [1] * rows
    return path


def varint(value: int) -> bytes:
    out = []
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


REFUSED = """
try:
    load_dataset(path)
except InputError as error:
    assert "no image in it can be read (6 tried, the first is row 0)" in str(error)
else:
    raise AssertionError("not refused")
"""


def test_memory_of_a_parquet_file_whose_footer_lies(tmp_path: Path) -> None:
    """38 KB took 3.8 GB."""
    path = with_lying_footer(tmp_path / "x.parquet", 6, 200_000_000)
    imports = "import pyarrow.parquet; from kilograd.data import load_dataset; "
    imports += "from kilograd.errors import InputError"
    assert kilobytes(imports, REFUSED, path) < 1_000_000


def test_what_comes_of_a_parquet_file_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_lying_footer(tmp_path / "x.parquet", 6, 100_000)
    assert len(load_dataset(path)) == 6
    monkeypatch.setattr(limits, "PARQUET_BYTES", 300_000)
    with pytest.raises(InputError, match=r"x\.parquet: holds 3.* bytes .* 300,000 are the most"):
        load_dataset(path)


def test_an_image_in_parquet_is_no_larger_than_one_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = encode(photo()), encode(photo(width=9, height=9))
    monkeypatch.setattr(limits, "IMAGE_BYTES", len(large) - 1)
    path = write_parquet(tmp_path / "x.parquet", {"image": [large, small], "label": [0, 1]})
    dataset = load_dataset(path)
    assert (dataset.skipped, dataset.image_names) == (("row 0",), ("row 1",))


@pytest.mark.parametrize("keep", [0, 4, 200, -100])
def test_damaged_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"image": images(3), "label": [0, 1, 0]})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_dataset(path)


def test_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="needs pyarrow; pip install pyarrow"):
        load_dataset(write(tmp_path / "x.parquet"))


# -- the stored image sets ------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.stem)
def test_shared_sets_load_completely_and_fast(path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    start = time.perf_counter()
    dataset = load_dataset(path)
    assert time.perf_counter() - start < 15
    file = parquet.ParquetFile(path)
    assert len(dataset) == file.metadata.num_rows
    assert dataset.skipped == ()
    assert dataset.split is not None
    assert set(dataset.split) <= {"train", "val", "test"}
    assert min(Counter(dataset.labels.tolist()).values()) >= 19
    names = file.read(columns=["class_name"])["class_name"].to_pylist()
    assert [dataset.classes[label] for label in dataset.labels] == names
    grouped = {"omniglot": 50, "pacs": 4}.get(dataset.name)
    assert (dataset.groups and len(set(dataset.groups))) == grouped
    assert prepare(dataset.image(0), Preprocess.square(128, 147, 3)).std() > 5
