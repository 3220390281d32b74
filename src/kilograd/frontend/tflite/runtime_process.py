"""Run a file in another runtime: a script of its own, as some files make them abort.

    python runtime_process.py tflm|litert FOLDER

FOLDER holds model.tflite, job.npz (`arena`: bytes of memory; `wanted`: numbers of tensors;
`windows`: how many there are) and for each window a file in<i>.npz with arrays <call>_<input>.
It gets a file out<i>.npz with the tensors after the last call of a window.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tflm:
    """TensorFlow Lite Micro, which keeps all tensors."""

    def __init__(self, data: bytes, arena: int) -> None:
        from tflite_micro import runtime

        keep = runtime.InterpreterConfig.kPreserveAllTensors
        self.net = runtime.Interpreter.from_bytes(data, arena_size=arena, intrepreter_config=keep)

    def call(self, feeds: Mapping[int, NDArray[Any]]) -> None:
        """Compute."""
        for k, x in feeds.items():
            self.net.set_input(x, k)
        self.net.invoke()

    def tensor(self, number: int) -> NDArray[Any]:
        """Return a tensor."""
        return self.net.GetTensor(number, 0)["tensor_data"]


class LiteRt:
    """The reference kernels of LiteRT, which keep all tensors."""

    def __init__(self, data: bytes, arena: int) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.net = Interpreter(
            model_content=data,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
        self.net.allocate_tensors()
        self.inputs = [about["index"] for about in self.net.get_input_details()]

    def call(self, feeds: Mapping[int, NDArray[Any]]) -> None:
        """Compute."""
        for k, x in feeds.items():
            self.net.set_tensor(self.inputs[k], x)
        self.net.invoke()

    def tensor(self, number: int) -> NDArray[Any]:
        """Return a tensor."""
        return self.net.get_tensor(number)


def main(runtime: type[Tflm | LiteRt], folder: Path) -> None:
    """Do the job of a folder."""
    data = (folder / "model.tflite").read_bytes()
    with np.load(folder / "job.npz") as job:
        arena, wanted, windows = int(job["arena"]), job["wanted"].tolist(), int(job["windows"])
    net = None
    for i in range(windows):
        calls: dict[int, dict[int, NDArray[Any]]] = {}
        with np.load(folder / f"in{i}.npz") as feeds:
            for name, x in feeds.items():
                call, k = map(int, name.split("_"))
                calls.setdefault(call, {})[k] = x
        if net is None or len(calls) > 1:  # what keeps anything from call to call begins anew
            net = runtime(data, arena)
        for call in sorted(calls):
            net.call(calls[call])
        found: dict[str, Any] = {str(n): net.tensor(n) for n in wanted}
        np.savez(folder / f"out{i}.npz", **found)


if __name__ == "__main__":
    main(Tflm if sys.argv[1] == "tflm" else LiteRt, Path(sys.argv[2]))
