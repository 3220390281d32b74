"""Packages that only some work needs: how they are missed, and how they are installed.

An extra is one of pyproject.toml.  Messages name its packages, and not the extra: packages install
wherever Kilograd runs, and an extra only where an index has Kilograd.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
from types import ModuleType

from kilograd.errors import InputError


class Extra(enum.Enum):
    """The packages of an extra, by the names that pip takes."""

    PARQUET = ("pyarrow",)
    H5 = ("h5py",)
    HEIC = ("pillow-heif",)
    EXACT = ("ortools",)
    SEARCH = ("pymoo",)
    TUNE = ("optuna",)
    RAY = ("ray",)
    DIGITS = ("scikit-learn",)
    EMULATE = ("ziglang", "unicorn", "pyelftools", "capstone", "wasmtime")
    ZIG = ("ziglang",)
    TORCH = ("torch", "tensorboard")
    ONNX = ("onnx",)
    CHECK = ("ai-edge-litert", "onnxruntime", "tflite-micro")

    @property
    def install(self) -> str:
        """The command that installs what is missing of it.

        >>> Extra.TORCH.install.startswith("pip install ")
        True
        """
        return f"pip install {' '.join(self._missing() or self.value)}"

    @property
    def missing(self) -> bool:
        """Whether a package of it is not installed."""
        return bool(self._missing())

    def need(self, what: str) -> None:
        """Raise `InputError` where a package is not installed; `what` needs it."""
        if missing := self._missing():
            raise InputError(f"{what} needs {', '.join(missing)}; {self.install}")

    def load(self, module: str, what: str) -> ModuleType:
        """Import a module.  Raises `InputError` where its package is missing, or lacks it.

        Other packages of the extra may be missing, and are named with it.
        """
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            self.need(what)
        try:
            return importlib.import_module(module)
        except ImportError as e:
            package = module.partition(".")[0]
            raise InputError(
                f"{what} needs another {package} ({e}); pip install --upgrade {package}"
            ) from e

    def _missing(self) -> list[str]:
        return [p for p in self.value if importlib.util.find_spec(_MODULES.get(p, p)) is None]


#: What is imported, where it is not called like its package.
_MODULES = {
    "ai-edge-litert": "ai_edge_litert",
    "pillow-heif": "pillow_heif",
    "pyelftools": "elftools",
    "scikit-learn": "sklearn",
    "tflite-micro": "tflite_micro",
}
