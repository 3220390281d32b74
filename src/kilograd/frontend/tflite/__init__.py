"""Files of TensorFlow Lite: read into layers, compared with what runs them, and written back."""

from kilograd.frontend.tflite.read import read_tflite
from kilograd.frontend.tflite.write import write_tflite
from kilograd.layers.learned import Learned

__all__ = ["Learned", "read_tflite", "write_tflite"]
