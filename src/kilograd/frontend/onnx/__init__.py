"""Networks in files of ONNX: read here, and given back what was learned."""

from kilograd.frontend.onnx.reader import read_onnx

__all__ = ["read_onnx"]
