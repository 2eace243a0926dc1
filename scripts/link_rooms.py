"""Link the rooms under build/typed/adaptdock, where type checkers and import-linter can follow them.

The editable install maps packages to folders with an import hook, which static tools do not run.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TYPED = ROOT / "build" / "typed" / "adaptdock"


def main() -> None:
    """Make the links anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = project["tool"]["setuptools"]["package-dir"]
    TYPED.mkdir(parents=True, exist_ok=True)
    for link in TYPED.iterdir():
        link.unlink()
    for file in (ROOT / "src" / "adaptdock").iterdir():
        if file.is_file():
            (TYPED / file.name).symlink_to(file)
    for package, folder in rooms.items():
        if package.count(".") == 1:  # a folder in a room comes with it
            (TYPED / package.removeprefix("adaptdock.")).symlink_to(ROOT / folder)


if __name__ == "__main__":
    main()
