"""Data sets of arrays: .npy files in folders, .npz files, lists in Parquet tables."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from fuzz.case import Case, Target
from fuzz.mutate import flipped
from kilograd.data import load_dataset
from kilograd.data.arrays import stored
from kilograd.frontend import Arrays, Preprocess
from kilograd.ir import Affine, Array
from kilograd.reading import there

_SAMPLES = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
_KINDS = ("<f4", ">f8", "|i1", ">i2", "<f2", "|b1", "<u8")
_QUANT = Affine((0.05,), 3)


class Arrayed(Target):
    """Sets of arrays, a few bytes of them others."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        import pyarrow as pa

        table = {"sample": _SAMPLES.tolist(), "label": [0, 1, 0, 1], "shape": [[6, 3]] * 4}
        fixed = pa.FixedShapeTensorArray.from_numpy_ndarray(_SAMPLES)
        self.tables = [_table(table), _table({"sample": fixed, "class_name": list("abab")})]
        self.archives = [
            _archive(zipfile.ZIP_STORED, x=_SAMPLES, y=np.array([0, 1, 0, 1])),
            _archive(zipfile.ZIP_DEFLATED, samples=_SAMPLES, labels=np.array(list("abab"))),
            _archive(
                zipfile.ZIP_DEFLATED,
                x=_SAMPLES,
                y=np.array([0, 1, 0, 1]),
                classes=np.array(["a", "b"]),
                split=np.array(["train", "val", "test", "x"]),
            ),
        ]

    def make(self, rng: Random) -> Case:
        match rng.randrange(3):
            case 0:
                return {"set.npz": flipped(rng, rng.choice(self.archives))}
            case 1:
                return {"set.parquet": flipped(rng, rng.choice(self.tables))}
        kind = rng.choice(_KINDS)
        files = [_npy(x.astype(kind), in_columns=rng.random() < 0.5) for x in _SAMPLES]
        files[rng.randrange(4)] = flipped(rng, rng.choice(files))
        return {f"{'ab'[i % 2]}/{i}.npy": data for i, data in enumerate(files)}

    def check(self, folder: Path, *, deep: bool) -> None:
        places = (folder / "set.npz", folder / "set.parquet", folder)
        dataset = load_dataset(next(p for p in places if there(p)))
        first = np.asarray(dataset.sample(0))
        shape = (*first.shape, *(1,) * (3 - first.ndim))
        network = Preprocess(shape[0], shape[1], shape[2], Arrays(_QUANT))
        for i in range(len(dataset)):
            codes = dataset.prepared(i, network)
            assert codes.shape == shape
            assert codes.dtype == np.int8


def _npy(array: Array, *, in_columns: bool) -> bytes:
    """Return a file with the first axis, or the last one, along memory."""
    data = io.BytesIO()
    np.save(data, np.asfortranarray(array) if in_columns else array)
    return data.getvalue()


def _table(columns: dict[str, object]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    data = io.BytesIO()
    parquet.write_table(pa.table(columns), data)
    return data.getvalue()


def _archive(how: int, **arrays: Array) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive:
        for name, value in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), stored(value), how)
    return data.getvalue()
