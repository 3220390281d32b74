"""Files of `kilograd pull`, as if their checksum were right: the reader must not rely on it."""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random

import numpy as np
from published import archive_of, small_cfg

from fuzz.case import Case, Target
from fuzz.mutate import flipped
from kilograd.frontend.pickled import read_archive
from kilograd.frontend.tiny_training import read_network


class Archive(Target):
    """Zip files with a pickle: the pickle damaged, or the file."""

    share = 1.2

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.pickles = [pickle.dumps(small_cfg(), protocol=p) for p in (2, 3, 4)]

    def make(self, rng: Random) -> Case:
        data = rng.choice(self.pickles)
        if rng.random() < 0.2:
            return {"file.pkl": flipped(rng, archive_of(data))}
        return {"file.pkl": archive_of(flipped(rng, data))}

    def check(self, folder: Path, *, deep: bool) -> None:
        file = folder / "file.pkl"
        found = read_archive(file.read_bytes(), str(file))
        content = read_network(found, "a", "A", str(file))
        kinds = {name.rpartition(".")[2]: value.dtype for name, value in content.tensors.items()}
        assert kinds == {"weight": np.int8, "bias": np.int32, "weight_scale": np.float32}
