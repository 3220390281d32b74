"""Every op, one family to a file.  `docs/ops.md` lists them with their kernels."""

from kilograd.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from kilograd.ops.depthwise import Depthwise, DepthwiseInputGrad, DepthwiseWeightGrad
from kilograd.ops.elementwise import (
    Add,
    BlockAdd,
    ClipGrad,
    ClipMask,
    ScaleChannels,
)
from kilograd.ops.enrol import Enrol, Lookup
from kilograd.ops.fisher import FisherSum
from kilograd.ops.grouped import GroupedConv, GroupedInputGrad, GroupedWeightGrad
from kilograd.ops.head import (
    Cosine,
    CosineInputGrad,
    CosinePrototypeGrad,
    Dense,
    DenseInputGrad,
    DenseWeightGrad,
    Dequantise,
    ToBlock,
)
from kilograd.ops.loss import CrossEntropy, CrossEntropyGrad
from kilograd.ops.max_pool import ArgMax, MaxPool, MaxPoolGrad
from kilograd.ops.mean_pool import Mean, MeanPool, MeanPoolGrad
from kilograd.ops.pool import AvgPool, Broadcast, SumPixels, Upsample, UpsampleGrad, WindowPool
from kilograd.ops.product import Product, ProductGrad, ProductSumGrad
from kilograd.ops.row_update import RowUpdate
from kilograd.ops.shape import Concat, Copy, Overlay, PadMap, Reshape, Take, TakeGrad
from kilograd.ops.state import Accumulate, Adam, ElementRule, Momentum
from kilograd.ops.stream import Stage, Stream
from kilograd.ops.table import Rescale, Table, TableGrad
from kilograd.ops.update import Clear, RowRms, Sgd, Update
from kilograd.ops.window import Window

LayerOp = Conv | Depthwise | GroupedConv
"""The ops of layers: (x, weights, bias) -> y."""

__all__ = [
    "Accumulate",
    "Adam",
    "Add",
    "ArgMax",
    "AvgPool",
    "BlockAdd",
    "Broadcast",
    "Clear",
    "ClipGrad",
    "ClipMask",
    "Concat",
    "Conv",
    "ConvInputGrad",
    "ConvWeightGrad",
    "Copy",
    "Cosine",
    "CosineInputGrad",
    "CosinePrototypeGrad",
    "CrossEntropy",
    "CrossEntropyGrad",
    "Dense",
    "DenseInputGrad",
    "DenseWeightGrad",
    "Depthwise",
    "DepthwiseInputGrad",
    "DepthwiseWeightGrad",
    "Dequantise",
    "ElementRule",
    "Enrol",
    "FisherSum",
    "GroupedConv",
    "GroupedInputGrad",
    "GroupedWeightGrad",
    "LayerOp",
    "Lookup",
    "MaxPool",
    "MaxPoolGrad",
    "Mean",
    "MeanPool",
    "MeanPoolGrad",
    "Momentum",
    "Overlay",
    "PadMap",
    "Product",
    "ProductGrad",
    "ProductSumGrad",
    "Rescale",
    "Reshape",
    "RowRms",
    "RowUpdate",
    "ScaleChannels",
    "Sgd",
    "Stage",
    "Stream",
    "SumPixels",
    "Table",
    "TableGrad",
    "Take",
    "TakeGrad",
    "ToBlock",
    "Update",
    "Upsample",
    "UpsampleGrad",
    "Window",
    "WindowPool",
]
