"""Pictures to read: whole, cut off, and put together by hand."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def photo(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Not a photograph, but incompressible like one, so that truncation hits pixel data."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(photo()) if data is None else data)
    return path


def truncated(format_: str, **options: Any) -> bytes:
    data = encode(photo(width=200, height=150), format_, **options)
    return data[: len(data) * 2 // 3]


def png(width: int, height: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 8 bits a sample; `kind` is 2 for RGB, 3 for a palette, 6 for RGBA."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *chunks):
        out += struct.pack(">I", len(data)) + name + data
        out += struct.pack(">I", zlib.crc32(name + data))
    return out
