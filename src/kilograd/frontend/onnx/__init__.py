"""Networks in files of ONNX: read, compared with what runs them, and written back."""

from kilograd.frontend.onnx.file import checksum
from kilograd.frontend.onnx.reader import read_onnx
from kilograd.frontend.onnx.write import write_onnx

__all__ = ["checksum", "read_onnx", "write_onnx"]
