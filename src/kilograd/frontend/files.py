"""Networks in files of other tools: which reader a file has."""

from __future__ import annotations

from pathlib import Path

from kilograd.errors import InputError, option
from kilograd.frontend.imported import Samples, model_of, sketched
from kilograd.frontend.model_folder import Model
from kilograd.layers.network import Network
from kilograd.layers.simplify import simplify
from kilograd.reading import file_there

SUFFIXES = (".tflite", ".onnx", ".pt2")
"""What files of networks are called."""

_INSTEAD = {
    ".pt": "a checkpoint has weights and no layers; torch.export.save the module as .pt2",
    ".pth": "a checkpoint has weights and no layers; torch.export.save the module as .pt2",
    ".h5": "Keras writes .tflite: tf.lite.TFLiteConverter.from_keras_model(model).convert()",
    ".keras": "Keras writes .tflite: tf.lite.TFLiteConverter.from_keras_model(model).convert()",
    ".pb": "TensorFlow writes .tflite: tf.lite.TFLiteConverter.from_saved_model(folder).convert()",
    ".cc": "give the .tflite that the array of bytes is made of",
}


def is_network_file(path: Path) -> bool:
    """Tell whether a path is a file that `read_network` may read."""
    return path.suffix.lower() in SUFFIXES and file_there(path)


def model_of_file(path: Path) -> Model:
    """Return the model of a file whose network has codes.

    Raises `InputError` as `read_network` and `model_of` do, and for a network of reals, which has
    none before it has seen data.
    """
    network = read_network(path)
    plain = simplify(network)
    if not plain.quantised:
        raise InputError(
            f"{path}: computes in float, and has no codes before it has seen data; kilograd import "
            f"gives it some: its {option('data')} is samples of what the network is for"
        )
    return model_of(plain, Samples(), path.stem, path)


def sizes_of_file(path: Path) -> Model:
    """Return a model of a file that needs the memory and the work of its network.

    One of reals gets codes without data: its answers mean nothing.
    """
    return model_of(sketched(simplify(read_network(path))), Samples(), path.stem, path)


def read_network(path: Path) -> Network:
    """Return what a file of TFLite, ONNX or PyTorch describes, by the end of its name.

    Raises `InputError` for another file, for one that is not there, and as the readers do.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        fix = _INSTEAD.get(kind, f"give a file that ends in {', '.join(SUFFIXES)}")
        raise InputError(f"{path}: is no file of a network; {fix}")
    if not file_there(path):
        raise InputError(f"{path}: no such file")
    # Only the reader that is needed, and what it stands on.
    match kind:
        case ".tflite":
            from kilograd.frontend.tflite import read_tflite

            return read_tflite(path)
        case ".onnx":
            from kilograd.frontend.onnx import read_onnx

            return read_onnx(path)
        case _:
            from kilograd.frontend.torch_export import read_pt2

            return read_pt2(path)
