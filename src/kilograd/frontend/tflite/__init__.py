"""Files of TensorFlow Lite: read into layers, compared with what runs them, and written back."""

from kilograd.frontend.tflite.read import read_tflite

__all__ = ["read_tflite"]
