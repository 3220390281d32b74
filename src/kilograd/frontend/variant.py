"""Networks that a published one differs from by a layer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kilograd.errors import InputError, option
from kilograd.frontend.model_folder import Model
from kilograd.ir import Affine, Builder, Role, dead_code
from kilograd.ops import AvgPool, Conv, Window

LAST_CONV = "last_conv"


def with_last_conv(model: Model, channels: int) -> Model:
    """Append a 1x1 convolution with ReLU6 to the last map; the features are its mean.

    MobileNetV2 and ProxylessNASNet end like this, and TinyTrain's networks do (448 and 384
    channels), but not the published int8 files.  The weights are random: good for knowing what
    training would cost, and for nothing else.  The original classifier is dropped.

    Raises `InputError` if the features are not the mean of a map, or if there are no channels.
    """
    if channels < 1:
        raise InputError(f"{option('last_conv')} {channels}: must be at least 1")
    features = model.graph.outputs[0]
    if not isinstance(features.op, AvgPool) or LAST_CONV in model.layers:
        raise InputError(
            f"{option('last_conv')} {channels}: {model.name} has no place for it: that is between "
            "the last map and its mean; leave the option out"
        )
    (x,) = features.inputs
    inputs = x.type.shape[2]
    codes = np.random.default_rng(0).integers(-127, 128, (channels, 1, 1, inputs), np.int8)
    # A sum of codes has this spread if those of x have 32; it shall stand for 2 of the 6 of ReLU6.
    spread = 32 * float(codes.std()) * math.sqrt(inputs)
    scale = 2 / (spread * x.type.affine.scale[0])
    b = Builder(dead_code(replace(model.graph, outputs=(x,))))
    w = b.param(f"{LAST_CONV}.weight", codes, Affine((scale,) * channels, axis=0), role=Role.WEIGHT)
    quant = Affine((scale,) * channels, axis=0, unit=x.type.affine.scale[0])
    c = b.param(f"{LAST_CONV}.bias", np.zeros(channels, np.int32), quant, role=Role.BIAS)
    y = b(Conv(Window(), Affine((6 / 255,), -128)), x, w, c, name=LAST_CONV)
    return replace(
        model,
        title=f"{model.title}, and a random 1x1 convolution to {channels} channels",
        graph=b.graph(b(AvgPool(), y, name=features.name)),
        layers=(*model.layers, LAST_CONV),
    )


def with_classifier(model: Model, classes: int, seed: int = 0) -> Model:
    """Put a new classifier with random weights behind the features, in place of what was there.

    Raises `InputError` for fewer than two classes.
    """
    if classes < 2:
        raise InputError(f"a classifier needs two classes or more, there is {classes}")
    features = model.graph.outputs[0]
    inputs = features.type.shape[2]
    shape = (classes, 1, 1, inputs)
    codes = np.random.default_rng(seed).integers(-127, 128, shape, np.int8)
    scale = (1 / (127 * math.sqrt(inputs)),) * classes
    b = Builder(dead_code(replace(model.graph, outputs=(features,))))
    w = b.param("classifier.weight", codes, Affine(scale, axis=0), role=Role.WEIGHT)
    quant = Affine(scale, axis=0, unit=features.type.affine.scale[0])
    c = b.param("classifier.bias", np.zeros(classes, np.int32), quant, role=Role.BIAS)
    y = b(Conv(Window(), Affine((0.1,), 0)), features, w, c, name="classifier")
    return replace(model, graph=b.graph(features, y))
