"""What stands behind a network: from its pooled features, int8 [1, 1, c], to a number a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Affine, Array, Builder, Node, Role
from kilograd.ops import Conv, Cosine, Dense, Dequantise, Window

_PRODUCT = 2.0**-12
"""Logits that a code of a weight of an int8 head makes of one code of a feature."""
_LOGIT = 2.0**-3
"""Logits a code of an int8 head's output: from -16 to 15.9."""


def own(node: Node, name: str) -> Node:
    """Return a node that must have just this name: callers and other entry points know it by it.

    Raises `InputError` where the network has taken it.
    """
    if node.name != name:
        raise InputError(
            f"the network has a tensor called {name!r}, and so has the program that trains it: "
            f"give it another name"
        )
    return node


def embedded(b: Builder, features: Node) -> Node:
    """Append the features as float32."""
    return b(Dequantise(), features, name="embedding")


def _param(b: Builder, name: str, value: Array, quant: Affine | None = None) -> Node:
    """Append a parameter of a head."""
    c_name = name.replace(".", "_")
    return own(b.param(name, value, quant, role=Role.HEAD, c_name=c_name), name)


@dataclass(frozen=True)
class LinearHead:
    """A float32 linear classifier, all zero at first, that learns by gradient."""

    ways: int

    def logits(self, b: Builder, features: Node) -> Node:
        """Append the head."""
        x = embedded(b, features)
        zeros = np.zeros((self.ways, x.type.size), np.float32)
        w, c = _param(b, "head.weight", zeros), _param(b, "head.bias", zeros[:, 0].copy())
        return own(b(Dense(), x, w, c, name="logits", c_name="logits"), "logits")

    learned = ("head.weight", "head.bias")


@dataclass(frozen=True)
class Int8Head:
    """A linear classifier with int8 weights and logits and int32 biases, all zero at first.

    It is a layer like others, so it learns as they do.  Its scales cannot come from its weights,
    as there are none yet: they are constants, in the features' own unit.  Float32 heads of tasks
    of ten classes stay within them (docs/results/studies/recipes.md).
    """

    ways: int
    logit: ClassVar[Affine] = Affine((_LOGIT,))

    @staticmethod
    def weight_scale(features: Node) -> float:
        """Return the scale of the weights on features."""
        return _PRODUCT / features.type.affine.scale[0]

    def logits(self, b: Builder, features: Node) -> Node:
        """Append the head."""
        unit = features.type.affine.scale[0]
        rows = Affine((self.weight_scale(features),) * self.ways, axis=0)
        zeros = np.zeros((self.ways, 1, 1, features.type.size), np.int8)
        w = _param(b, "head.weight", zeros, rows)
        biases = np.zeros(self.ways, np.int32)
        c = _param(b, "head.bias", biases, Affine(rows.scale, axis=0, unit=unit))
        codes = b(Conv(Window(), self.logit), features, w, c, name="head")
        return own(b(Dequantise(), codes, name="logits", c_name="logits"), "logits")

    learned = LinearHead.learned


@dataclass(frozen=True)
class PrototypeHead:
    """Scaled cosine to one prototype a class: the sum of its enrolled samples' features.

    The loss depends on the samples behind the prototypes too.  Their share of the gradient is left
    out, unless the head is `exact` and gradients are accumulated.
    """

    ways: int
    scale: float = 10.0
    exact: bool = False
    table: ClassVar[str] = "head.prototypes"

    def prototypes(self, b: Builder, size: int) -> Node:
        """Append the prototypes of so many features, all zero at first."""
        return _param(b, self.table, np.zeros((self.ways, size), np.float32))

    def logits(self, b: Builder, features: Node) -> Node:
        """Append the head."""
        x = embedded(b, features)
        cosine = Cosine(self.scale, self.exact)
        p = self.prototypes(b, x.type.size)
        return own(b(cosine, x, p, name="logits", c_name="logits"), "logits")

    learned = ()


Head = LinearHead | Int8Head | PrototypeHead
