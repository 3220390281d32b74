"""Train neural networks in kilobytes, in integers."""

__version__ = "0.1.0"
