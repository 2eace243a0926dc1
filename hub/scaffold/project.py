"""New plugin projects: an installable, testable and publishable folder, written from templates."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Literal

from adaptdock.errors import UsageError
from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.artefact.file import read_card
from adaptdock.plugins import registry
from adaptdock.plugins.files import SUFFIX
from adaptdock.plugins.registry import GROUPS, Kind

ProjectKind = Literal["method", "task", "backbone", "adapters"]
PROJECTS: dict[ProjectKind, Kind] = {
    "method": "method",
    "task": "task",
    "backbone": "backbone",
    "adapters": "files",
}
"""Kind of project -> kind of the plugin that the project registers."""
TEMPLATES, ENDING = Path(__file__).parent / "templates", ".template"
NAME = re.compile(r"[a-z](?:-?[a-z0-9]+)*")
LONGEST = 60
PACKAGING = """
[tool.setuptools.packages.find]
where = ["src"]
"""
PACKAGE_DATA: dict[ProjectKind, str] = {
    "task": """
[tool.setuptools.package-data]
"{}" = ["sample/*"]
""",
    "adapters": f"""
[tool.setuptools.package-data]
"{{}}.files" = ["*{SUFFIX}"]
""",
}
"""Package data besides code: sample data of a task, and adapter files."""


@dataclass(frozen=True)
class Project:
    """The names of a new project."""

    kind: ProjectKind
    name: str

    @property
    def distribution(self) -> str:
        """The name for pip, such as ``adaptdock-my-method``."""
        return f"adaptdock-{self.name}"

    @property
    def package(self) -> str:
        """The name for import, such as ``adaptdock_my_method``."""
        return self.distribution.replace("-", "_")

    @property
    def module(self) -> str:
        """The module of the plugin class, such as ``my_method``."""
        return self.name.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The name of the plugin class, such as ``MyMethod``."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def target(self) -> str:
        """The target of the entry point: ``package.module:Class``, or a package of adapter files."""
        if self.kind == "adapters":
            return f"{self.package}.files"
        return f"{self.package}.{self.module}:{self.class_name}"

    def words(self) -> dict[str, str]:
        """Return the values of the placeholders in the templates."""
        kind, is_backbone = PROJECTS[self.kind], self.kind == "backbone"
        packaging = PACKAGING + PACKAGE_DATA.get(self.kind, "").format(self.package)
        check = f"adapt plugin check {self.name} --kind {kind}"
        summary = f"The {self.kind} {self.name} for adaptdock"
        if self.kind == "adapters":
            summary = f"Trained adapters for adaptdock: {self.name}"
        return {
            "name": self.name,
            "kind": kind,
            "title": self.class_name,
            "class_name": self.class_name,
            "distribution": self.distribution,
            "package": self.package,
            "module": self.module,
            "group": GROUPS[kind],
            "target": self.target,
            "summary": summary,
            "release": version("adaptdock"),
            "packaging": packaging.rstrip("\n"),
            "check": f"python -m {self.package}.{self.module} model && {check} --model model" if is_backbone else check,
        }


def checked(kind: ProjectKind, name: str) -> Project:
    """Return a project of that name; raise :class:`UsageError` for an invalid or taken name."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST].rstrip("-")
        offer = f" {near!r} would do." if NAME.fullmatch(near) else ""
        raise UsageError(
            f"the name {name!r}: a name begins with a small letter; small letters, digits and single hyphens follow, "
            f"as in the normalised names of distributions (PEP 503), at most {LONGEST} in all.{offer}"
        )
    taken = next((plugin for plugin in registry.discover(PROJECTS[kind]) if plugin.name == name), None)
    if taken is not None:
        raise UsageError(f"the {taken.kind} {name!r} is there already, from {taken.source}: give another name")
    return Project(kind, name)


def write_project(project: Project, folder: Path, adapters: Sequence[Path] = ()) -> list[Path]:
    """Write a project into a new folder, with adapter files for that kind, and return its files.

    Raises :class:`UsageError` for an existing folder, and :class:`FileError` for an invalid adapter file or a failed
    write. After an error no folder remains.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is there already: name another by --folder")
    if adapters and project.kind != "adapters":
        raise UsageError(f"a {project.kind} project carries no adapter files")
    twice = len({path.stem for path in adapters}) < len(adapters)
    if twice:
        raise UsageError("two of the adapter files have the same name, but an adapter is found by the name of its file")
    for path in adapters:
        read_card(path)
    words = project.words()
    with atomic_folder(folder, replace=False) as new:
        for source in ("common", project.kind):
            _fill(TEMPLATES / source, new, words)
        for path in adapters:
            shutil.copyfile(path, new / "src" / project.package / "files" / f"{path.stem}{SUFFIX}")
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _fill(templates: Path, folder: Path, words: Mapping[str, str]) -> None:
    """Write each template under its own name, with PACKAGE and MODULE replaced, and ``dot-`` as a dot."""
    for template in sorted(templates.rglob(f"*{ENDING}")):
        parts = template.relative_to(templates).with_suffix("").parts
        filled = [part.replace("PACKAGE", words["package"]).replace("MODULE", words["module"]) for part in parts]
        path = folder.joinpath(*("." + part[4:] if part.startswith("dot-") else part for part in filled))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
