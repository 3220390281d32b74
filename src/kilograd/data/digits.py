"""The handwritten digits that come inside scikit-learn, as a data set.

1,797 grey images of 8x8 pixels, 16 levels: UCI Optical Recognition of Handwritten Digits
(E. Alpaydin, C. Kaynak), CC BY 4.0.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from kilograd.data.dataset import Dataset
from kilograd.extras import Extra


def load_digits(digits: tuple[int, ...]) -> Dataset:
    """Return the images of some of the ten digits.

    Raises `InputError` where scikit-learn is not installed.
    """
    Extra.DIGITS.need("this data set")
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    chosen = np.flatnonzero(np.isin(labels, digits))
    return Dataset(
        name="digits",
        classes=tuple(map(str, digits)),
        images=tuple(_png(images[i].reshape(8, 8)) for i in chosen),
        image_names=tuple(f"digit {i}" for i in chosen),
        labels=np.searchsorted(np.array(digits), labels[chosen]),
    )


def _png(levels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    """Encode 16 levels as white on black."""
    file = io.BytesIO()
    Image.fromarray(np.clip(levels * 16, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
