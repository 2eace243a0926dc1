"""Conversion of adapters from and to peft and AdapterHub."""

from pathlib import Path

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.adapterhub import is_adapterhub, read_adapterhub
from adaptdock.hub.interchange.adapterhub_export import write_adapterhub
from adaptdock.hub.interchange.adapterhub_setup import FUSION, is_setup, read_setup
from adaptdock.hub.interchange.gguf_export import write_gguf
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.hub.interchange.outgoing import Outgoing
from adaptdock.hub.interchange.peft import is_peft, library_reference, read_peft
from adaptdock.hub.interchange.peft_export import write_peft
from adaptdock.hub.interchange.reference import Reference
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.adapterhub import AttentionMode
from adaptdock.plugins.toolkit.interchange.tensors import refuse

CONFIG = "adapter_config.json"
SHOWN = 5
"""Largest number of folders in a message."""
FORMATS = {"peft": write_peft, "adapterhub": write_adapterhub, "gguf": write_gguf}


def import_adapter(
    folder: Path,
    backbone: Backbone,
    name: str,
    labels: tuple[str, ...] = (),
    method: str | None = None,
    attention: AttentionMode | None = None,
) -> Imported:
    """Read an adapter of another library for its backbone.

    ``method`` names the method that reads it; by default the first that can. ``attention`` is that of AdapterHub's
    library, in which a prefix acts; by default sdpa without padding. Raises :class:`FileError` for a folder
    without an adapter or with damage, and :class:`UsageError` with the reason for an unsupported adapter.
    """
    check_foreign(folder)
    if is_setup(folder):
        if method is not None:
            raise UsageError(f"{folder} is a setup of several adapters, each with its own method; leave --method out")
        return read_setup(folder, backbone, name, labels, attention or "sdpa")
    if not is_peft(folder):
        return read_adapterhub(folder, backbone, name, labels, method, attention or "sdpa")
    if attention is not None:
        raise UsageError(f"{folder} is an adapter of peft, which is the same in every attention; leave --attention out")
    return read_peft(folder, backbone, name, labels, method)


def check_foreign(folder: Path) -> None:
    """Raise :class:`FileError` or :class:`UsageError` for a path that is not a folder with an adapter of a library."""
    if not folder.is_dir():
        raise FileError(folder, "there is no such folder; an adapter of peft or AdapterHub is one")
    if not is_setup(folder) and not is_peft(folder) and not is_adapterhub(folder):
        raise _no_adapter(folder)


def foreign_folders(folder: Path) -> list[Path]:
    """Return the folders of adapters inside a folder that is not an adapter itself, by name."""
    if not folder.is_dir() or is_setup(folder) or (folder / CONFIG).exists():
        return []
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inside if (path / CONFIG).is_file() or is_setup(path)]


def library_result(folder: Path, backbone: Backbone) -> Reference:
    """Return what the library of an adapter computes on a small batch, for a comparison with the import.

    Raises :class:`UsageError` for an adapter of a library that is not installed.
    """
    if not is_peft(folder):
        raise UsageError(f"{folder}: only adapters of peft can be compared, because AdapterHub wants other versions")
    return library_reference(folder, backbone)


def _no_adapter(folder: Path) -> UsageError:
    """Return the error for a folder of neither library, with the reason that its files show."""
    if (folder / FUSION).is_file():
        return refuse(
            f"the AdapterFusion in {folder}",
            "it combines several adapters, whose files are elsewhere. Save them together with save_adapter_setup",
        )
    if (folder / CONFIG).is_file():
        return UsageError(f"{folder} holds no adapter of peft or AdapterHub: its {CONFIG} is neither's")
    inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    hint = f"; of the folders in it, {', '.join(inside[:SHOWN])} has one" if inside else ""
    return UsageError(f"{folder} holds no adapter of peft or AdapterHub: it has no {CONFIG}{hint}")


def export_adapter(
    adapter: AdapterFile, backbone: Backbone, folder: Path, form: str, headless: bool = False
) -> list[str]:
    """Write an adapter into a folder in the format of another library, and return notes for the user.

    ``headless`` leaves the head out. Raises :class:`UsageError` with the reason for an unsupported adapter,
    :class:`MismatchError` for another backbone, and :class:`FileError` for a failed write.
    """
    return FORMATS[form](Outgoing(adapter, backbone, headless), folder)
