"""Networks of other tools become ours: from files, and from modules of PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from kilograd import limits
from kilograd.data import Dataset, load_dataset, load_samples
from kilograd.data.arrays import as_map
from kilograd.errors import InputError, option
from kilograd.frontend import Images, Model, Preprocess, save_model
from kilograd.frontend.files import read_network
from kilograd.frontend.imported import Samples, model_of, sketched
from kilograd.ir import Array
from kilograd.layers.calibrate import Calibration, Method, affine
from kilograd.layers.network import Network, Value
from kilograd.layers.quantise import Recipe, quantise
from kilograd.layers.report import Accuracy, Report, accuracy, total
from kilograd.layers.simplify import simplify
from kilograd.layers.simplify.edit import edited
from kilograd.options import Option, as_path, with_given
from kilograd.output import whole_folder

if TYPE_CHECKING:
    import torch

Place = str | Path

_AT_ONCE = 256  # samples in memory
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Quantising:
    """How reals become codes."""

    calibration: Annotated[
        Method, Option("How ranges follow from samples: min-max, percentile or mse.")
    ] = Method.MIN_MAX
    percentile: Annotated[
        float, Option("Percent of a layer's numbers that fit, with percentile.", 100)
    ] = 99.99
    correct_bias: Annotated[
        bool, Option("Let biases take up what rounding the weights adds to the mean.")
    ] = True
    count: Annotated[
        int, Option("Samples of the data that ranges come from, at most.", limits.COUNT)
    ] = 128

    def __post_init__(self) -> None:
        """Check what can be checked without data; raises `InputError`."""
        if self.count < 1:
            raise InputError(f"{option('count')} {self.count}: must be at least 1")
        Calibration(self.calibration, self.percentile)

    @property
    def recipe(self) -> Recipe:
        """The same as the quantiser takes it."""
        return Recipe(Calibration(self.calibration, self.percentile), self.correct_bias)


@dataclass(frozen=True)
class Importing:
    """How a network comes in."""

    samples: Samples = field(default_factory=Samples)
    quantising: Quantising = field(default_factory=Quantising)


@dataclass(frozen=True)
class Imported:
    """A network of ours, and the layers that it was made of: simple, with codes.

    `report`: what codes have cost; `None` for a file that had them.
    `accuracy`: on labelled samples, where there were some.
    """

    model: Model
    network: Network
    report: Report | None = None
    accuracy: Accuracy | None = None


def import_file(
    path: Place, data: Place | None = None, how: Importing | None = None, name: str | None = None
) -> Imported:
    """Return the network of a file of TFLite, ONNX or PyTorch.

    `data`: samples of what a float network is for, as `adapt` takes them; labels do not matter.
    `name`: what it will be called; default: what the file is called.

    Raises `InputError` as `read_network` does; where layers cannot be computed, all are listed.
    """
    file = as_path("file", path)
    return imported(read_network(file), data, how, name or file.stem, file)


def quantise_file(
    path: Place,
    data: Place,
    test: Place | None = None,
    how: Importing | None = None,
    name: str | None = None,
) -> Imported:
    """Return the network of a file that computes in float, in codes, as `import_file` does.

    `test`: labelled samples, whose classes are those of the network in the order of their names.

    Raises `InputError` for a file that has codes, and where the classes are not as many.
    """
    file, how = as_path("file", path), how or Importing()
    network = read_network(file)
    plain = simplify(network)
    if plain.quantised:
        raise InputError(f"{file}: has codes already; kilograd import takes it as it is")
    found = imported(network, data, how, name or file.stem, file)
    if test is None:
        return found
    floats = _with_pixels(plain, found.model, how.samples)
    dataset = load_dataset(as_path("test", test))
    classes = math.prod(plain.outputs[-1].shape)
    if len(dataset.classes) != classes:
        raise InputError(
            f"{dataset.name}: has {len(dataset.classes)} classes, and {file} gives {classes} "
            f"numbers; {option('test')} takes samples of the classes of the network"
        )
    (image,) = floats.inputs
    parts = [
        accuracy(
            floats,
            found.network,
            {image.name: _some(dataset, part, image, found.model.preprocess, how)},
            dataset.labels[part],
        )
        for part in np.array_split(np.arange(len(dataset)), -(-len(dataset) // _AT_ONCE))
    ]
    return replace(found, accuracy=total(parts))


def from_tflite(path: Place, data: Place | None = None, **options: object) -> Model:
    """Return the network of a file of TensorFlow Lite, as `from_file` does."""
    return from_file(_ending(path, ".tflite"), data, **options)


def from_onnx(path: Place, data: Place | None = None, **options: object) -> Model:
    """Return the network of a file of ONNX, float or with QDQ, as `from_file` does."""
    return from_file(_ending(path, ".onnx"), data, **options)


def from_file(path: Place, data: Place | None = None, **options: object) -> Model:
    """Return the network of a file of another tool; `adapt`, `plan` and `export` take it as model.

    `data`: samples of what a float network is for; they show the ranges that int8 codes need.
    `options` by name: as `kilograd import --help` lists them.

    >>> import kilograd
    >>> kilograd.from_onnx("net.onnx")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: net.onnx: no such file
    """
    return import_file(path, data, with_given(Importing(), options)).model


def from_torch(
    module: torch.nn.Module, example: torch.Tensor, data: Place | None = None, **options: object
) -> Model:
    """Return the network of a module of PyTorch in eval mode, as `from_file` does that of a file.

    `example`: an input with a batch axis, [1, ...]; what it holds does not matter.
    """
    from kilograd.frontend.torch_export import network_of

    network = network_of(module, example)
    how, path = with_given(Importing(), options), Path(f"{network.name}.module")
    return imported(network, data, how, network.name, path).model


def _ending(path: Place, suffix: str) -> Path:
    file = as_path("path", path)
    if file.suffix.lower() != suffix:
        raise InputError(f"{file}: give a file that ends in {suffix}")
    return file


def imported(
    network: Network, data: Place | None, how: Importing | None, name: str, path: Path
) -> Imported:
    """Return the network that layers describe; `path`: where it is from."""
    how = how or Importing()
    plain = simplify(network)
    model = model_of(sketched(plain), how.samples, name, path)  # or all that is wrong
    if plain.quantised:
        return Imported(model, plain)
    if data is None:
        raise InputError(
            f"{network.source.file or network.name}: computes in float; give {option('data')}, "
            "samples of what it is for: they show which ranges its layers need"
        )
    (image,) = plain.inputs
    seen = _reals(load_samples(as_path("data", data)), image, model.preprocess, how)
    made = quantise(
        _with_pixels(plain, model, how.samples), {image.name: seen}, how.quantising.recipe
    )
    model = model_of(made.network, how.samples, name, path)
    return Imported(model, made.network, made.report)


def save_imported(found: Imported, out: Path) -> None:
    """Write the model folder of an imported network; `InputError` if the disk refuses."""
    with whole_folder(out) as new:
        save_model(found.model, new)


def _with_pixels(network: Network, model: Model, samples: Samples) -> Network:
    """Return a float network that takes images with the quantisation of all that pixels can be."""
    if not isinstance(model.preprocess.samples, Images):
        return network
    (image,) = network.inputs
    mean, std = (np.array(x) for x in _normal(samples, model.preprocess.channels))
    span = float((-mean / std).min()), float(((1 - mean) / std).max())
    known = replace(image, quant=affine(span, one_sided=span[0] == 0))
    return edited(replace(network, inputs=(known,)), {}, {image: known})


def _normal(samples: Samples, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return samples.normal(channels) or ((0.0,) * channels, (1.0,) * channels)


def _reals(dataset: Dataset, image: Value, preprocess: Preprocess, how: Importing) -> Array:
    """Return samples as a float network takes them as `image`: float32, one behind the other."""
    count = min(how.quantising.count, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    return _some(dataset, chosen, image, preprocess, how)


def _some(
    dataset: Dataset, chosen: Array, image: Value, preprocess: Preprocess, how: Importing
) -> Array:
    """Return some samples: a network of dense layers takes vectors, `preprocess` makes maps."""
    maps = _maps(dataset, chosen, preprocess, how)
    return maps.reshape(len(maps), *image.shape)


def _maps(dataset: Dataset, chosen: Array, preprocess: Preprocess, how: Importing) -> Array:
    """Return some samples as float32 [n, height, width, channels]."""
    if isinstance(preprocess.samples, Images):
        pixels = replace(preprocess, samples=Images(preprocess.samples.resize))
        seen = (
            np.stack([dataset.prepared(i, pixels) for i in chosen.tolist()]).astype(np.float32)
            + 128
        )
        mean, std = _normal(how.samples, preprocess.channels)
        return ((seen / 255 - mean) / std).astype(np.float32)
    return np.stack([_array(dataset, i, preprocess) for i in chosen.tolist()])


def _array(dataset: Dataset, index: int, preprocess: Preprocess) -> Array:
    """Return a sample that is an array, float32 [height, width, channels]."""
    where = f"{dataset.name}: sample {dataset.image_names[index]}"
    sample = dataset.sample(index)
    if not isinstance(sample, np.ndarray):
        other = f", or {option('input')} image" if preprocess.channels in {1, 3} else ""
        raise InputError(
            f"{where} is an image, and the network takes arrays of {preprocess.spelled}; give "
            f".npy files{other}"
        )
    try:
        given = as_map(sample, preprocess)
    except InputError as e:
        raise InputError(f"{where} {e}") from e
    if np.abs(given).max() > _LARGEST:
        raise InputError(f"{where} has numbers that float32 cannot hold; scale the data")
    return given.astype(np.float32)
