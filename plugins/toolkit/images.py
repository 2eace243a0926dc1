"""Images from files, data URLs and Pillow, in RGB."""

import io
import warnings
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.toolkit.sources import embedded, shown, source_bytes, written_source

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes of image files in folders."""


def image_source(value: Any, where: str) -> str:
    """Return the source of an image: a path, a data URL, bytes, or an image of Pillow.

    Raises :class:`DataError` for anything else.
    """
    if hasattr(value, "convert") and hasattr(value, "save"):  # Pillow's, without its import
        stream = io.BytesIO()
        _rgb(value).save(stream, "PNG")  # without loss
        return embedded(stream.getvalue(), "image/png")
    return written_source(value, where)


def open_image(source: str, where: str = "an input") -> Any:
    """Return an image of Pillow in RGB, turned as its camera says; of an animation the first frame.

    Transparent pixels are laid on white. Raises :class:`DataError` for anything but an image, and for a damaged one.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    content = source_bytes(source, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where}: the image {shown(source)} is too large: make it smaller") from None
    except Exception as error:  # decoders raise errors of many kinds, all about this file
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else f"it is damaged: {error}"
        raise DataError(f"{where}: {shown(source)!r:.200} cannot be read as an image: {reason}") from None


def _rgb(image: Any) -> Any:
    """Return an image in RGB; a 16-bit image is scaled, not cut off at 255."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
