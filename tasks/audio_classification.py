"""Classification of a sound: one label, on a backbone that reads sounds (the encoder of Whisper)."""

from pathlib import Path
from typing import Any

from adaptdock.plugins.toolkit.sounds import SUFFIXES, check_sound, sound_source
from adaptdock.tasks.media.content_classes import LABEL_COLUMNS, ContentClasses


class AudioClassification(ContentClasses):
    """Gives a sound one of several labels. The sample are synthetic tones: rising, falling or steady."""

    field = "audio"
    modality = "sounds"
    asks = ("audio",)
    columns = {
        "audio": ("audio", "sound", "recording", "wav", "file_name", "filename", "file", "path", "0"),
        "label": LABEL_COLUMNS,
    }
    files = {"audio": SUFFIXES}
    sample = Path(__file__).parent / "samples" / "audio-classification"

    @classmethod
    def source(cls, value: Any, where: str) -> str:
        """Return the path or data URL of a sound; also of a dict with its array and sampling_rate."""
        source = sound_source(value, where)
        check_sound(source, where)
        return source
