"""Sounds from WAV files, data URLs and arrays: one channel, numbers from -1 to 1."""

import io
import warnings
from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptdock.errors import DataError
from adaptdock.plugins.toolkit.sources import embedded, shown, source_bytes, written_source

SUFFIXES = (".wav", ".wave")
"""Suffixes of sound files in folders."""
Wave = NDArray[np.float32]


def sound_source(value: Any, where: str) -> str:
    """Return the source of a sound: a path, a data URL, bytes, or a dict with ``array`` and ``sampling_rate``.

    Raises :class:`DataError` for anything else.
    """
    if isinstance(value, Mapping) and "array" in value:
        from scipy.io import wavfile

        try:
            wave, rate = np.asarray(value["array"], dtype=np.float32), int(value["sampling_rate"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{where}: a sound has an array of numbers and its sampling_rate") from None
        stream = io.BytesIO()
        wavfile.write(stream, rate, wave)
        return embedded(stream.getvalue(), "audio/wav")
    return written_source(value, where)


def open_sound(source: str, rate: int, where: str = "an input") -> Wave:
    """Return the samples of a WAV file (PCM or float), one channel, resampled to ``rate`` samples a second.

    Raises :class:`DataError` for anything but a WAV file, for a damaged one, and for one without samples.
    """
    from scipy.signal import resample_poly

    recorded_rate, wave = _recorded(source, where)
    if recorded_rate != rate:
        common = gcd(recorded_rate, rate)
        wave = resample_poly(wave, rate // common, recorded_rate // common)
    return np.ascontiguousarray(wave, dtype=np.float32)


def check_sound(source: str, where: str) -> None:
    """Raise the errors of :func:`open_sound`."""
    _recorded(source, where)


def _recorded(source: str, where: str) -> tuple[int, Wave]:
    """Return samples a second, and the samples."""
    from scipy.io import wavfile

    content = source_bytes(source, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # blocks of metadata
            recorded_rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # the reader raises errors of many kinds, all about this file
        raise DataError(
            f"{where}: {shown(source)!r:.200} cannot be read as a WAV file: {error}. Convert other formats first, "
            f"such as with ffmpeg -i FILE FILE.wav"
        ) from None
    wave = _plain(samples)
    if not len(wave) or recorded_rate <= 0 or not np.isfinite(wave).all():
        raise DataError(f"{where}: {shown(source)!r:.200} has no samples that are numbers")
    return recorded_rate, wave


def _plain(samples: NDArray[Any]) -> Wave:
    """Return samples as numbers from -1 to 1, the mean of all channels; 8-bit samples are unsigned."""
    kind = samples.dtype
    wave = samples.astype(np.float64)
    if kind == np.uint8:
        wave = (wave - 128) / 128
    elif np.issubdtype(kind, np.integer):
        wave = wave / (float(np.iinfo(kind).max) + 1)
    if wave.ndim > 1:
        wave = wave.mean(axis=1)
    return wave.astype(np.float32)
