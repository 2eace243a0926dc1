"""Several files for one split: a comma-separated list, or a pattern."""

from pathlib import Path

from adaptdock.engine.data.formats import FORMATS
from adaptdock.engine.data.packed import data_suffix


def file_list(name: str) -> list[Path]:
    """Return the files of one split that a pattern or a comma-separated list names; none of any other name.

    Plain texts in a list belong together line by line instead, and are not returned.
    """
    if Path(name).exists():
        return []
    if any(character in name for character in "*?["):
        pattern = Path(name)
        root = Path(pattern.anchor or ".")
        return sorted(file for file in root.glob(str(pattern.relative_to(pattern.anchor))) if file.is_file())
    files = [Path(part.strip()) for part in name.split(",")]
    has_format = all(data_suffix(file) in FORMATS and file.is_file() for file in files)
    return files if len(files) > 1 and has_format else []
