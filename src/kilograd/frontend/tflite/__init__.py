"""Files of TensorFlow Lite: read into layers, compared with what runs them, and written back."""

from kilograd.frontend.tflite.read import read_tflite
from kilograd.frontend.tflite.write import Learned, write_tflite

__all__ = ["Learned", "read_tflite", "write_tflite"]
