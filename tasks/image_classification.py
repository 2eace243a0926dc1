"""Classification of an image: one label, on a backbone that reads images (ViT, DINOv2, ...)."""

from pathlib import Path
from typing import Any

from adaptdock.plugins.toolkit.images import SUFFIXES, image_source, open_image
from adaptdock.tasks.media.content_classes import LABEL_COLUMNS, ContentClasses


class ImageClassification(ContentClasses):
    """Gives an image one of several labels. The sample are handwritten digits of 8 by 8 pixels."""

    field = "image"
    modality = "images"
    asks = ("image",)
    columns = {
        "image": ("image", "img", "picture", "file_name", "filename", "file", "path", "0"),
        "label": LABEL_COLUMNS,
    }
    files = {"image": SUFFIXES}
    sample = Path(__file__).parent / "samples" / "image-classification"

    @classmethod
    def source(cls, value: Any, where: str) -> str:
        """Return the path or data URL of an image; also of one of Pillow."""
        source = image_source(value, where)
        open_image(source, where)
        return source
