"""Weight gradients and updates at once: no gradient of weights ever exists whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from kilograd.ir import DType, Kernel, Node, Op, Params, TensorType, Value
from kilograd.ir.params import Code
from kilograd.ops._common import no_vjp
from kilograd.ops.conv import ConvWeightGrad
from kilograd.ops.depthwise import DepthwiseWeightGrad
from kilograd.ops.grouped import GroupedWeightGrad, GroupedWeightGradParams
from kilograd.ops.head import DenseParams, DenseWeightGrad
from kilograd.ops.update import Update, UpdateFields
from kilograd.ops.window import WindowParams


@dataclass(frozen=True, eq=False)
class ConvWeightUpdateParams(Params):
    """The gradient of the weights of a convolution, and their update."""

    window: WindowParams
    x_zero: Code
    update: UpdateFields


@dataclass(frozen=True, eq=False)
class DepthwiseWeightUpdateParams(ConvWeightUpdateParams):
    """As for `kg_conv_weight_update`."""


@dataclass(frozen=True, eq=False)
class GroupedWeightUpdateParams(GroupedWeightGradParams):
    """The gradient of the weights of a convolution in groups, and their update."""

    update: UpdateFields


@dataclass(frozen=True, eq=False)
class DenseWeightUpdateParams(DenseParams):
    """The gradient of the weights of a linear layer, and their update."""

    update: UpdateFields


#: What the kernel of each weight gradient is told when it updates as well.
_FUSED: dict[type[Op], Callable[..., Params]] = {
    ConvWeightGrad: ConvWeightUpdateParams,
    DepthwiseWeightGrad: DepthwiseWeightUpdateParams,
    GroupedWeightGrad: GroupedWeightUpdateParams,
    DenseWeightGrad: DenseWeightUpdateParams,
}


@dataclass(frozen=True)
class RowUpdate(Op):
    """A weight gradient and its update, one row at a time, so that the gradient is never whole.

    Inputs: param, x, dy, then what `update` takes after its gradient.
    """

    grad: ConvWeightGrad | DepthwiseWeightGrad | GroupedWeightGrad | DenseWeightGrad
    update: Update

    @property
    def writes(self) -> tuple[int, ...]:  # type: ignore[override]
        """The parameter, and every state."""
        return (0, *(i + 1 for i in self.update.writes[1:]))

    def _parts(self, node: Node) -> tuple[Node, Node]:
        param, x, dy, *rest = node.inputs
        grad = Node(self.grad, (x, dy), self.grad.infer(x.type, dy.type), "gradient")
        return grad, Node(self.update, (param, grad, *rest), param.type, "update")

    def infer(self, *xs: TensorType) -> TensorType:
        param, x, dy, *rest = xs
        return self.update.infer(param, self.grad.infer(x, dy), *rest)

    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        param, x, dy, *rest = xs
        grad, update = self._parts(node)
        g = self.grad.reference(grad, x, dy)
        return self.update.reference(update, param, g, *rest)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        grad, _ = self._parts(node)
        return self.grad.macs(grad)

    def kernel(self, node: Node) -> Kernel:
        param, x, dy, *rest = node.inputs
        grad, update = self._parts(node)
        own = self.update.fields(param.type)
        if grad.type.dtype is DType.I32:
            own = replace(own, gradient_scale=grad.type.block.scale)
        record, whole = _FUSED[type(self.grad)], self.grad.kernel(grad)
        return Kernel(
            self.grad.update_symbol,
            (x, dy, *self.update.args(update, tuple(rest))),
            record(*(getattr(whole.params, f.name) for f in fields(whole.params)), own),
            scratch=max(whole.scratch, own.scratch),  # a row of sums becomes the floats
        )
