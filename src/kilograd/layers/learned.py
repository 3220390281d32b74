"""What was learned, as it is written into the file that a network is from."""

from __future__ import annotations

from dataclasses import dataclass

from kilograd.ir import Affine
from kilograd.layers.network import Tensor


@dataclass(frozen=True, eq=False)
class Learned:
    """New numbers of a layer with weights, in the shapes of its operation.

    The number of outputs may be another one where the layer is the last.  `output`: what the codes
    of its output mean now; None: the same as before.
    """

    weight: Tensor
    bias: Tensor | None = None
    output: Affine | None = None
