"""Environments for tests: a virtual environment of its own, in which distributions are built and installed."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

BUILT_HERE = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees what this one has; what is installed goes into it alone."""

    folder: Path

    def run(self, command: str, where: Path, fails: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run a line of shell in a folder, with this environment's programs first."""
        variables = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder),
            "ADAPTDOCK_HOME": str(self.folder / "home"),
            "ADAPTDOCK_SOURCES": str(self.folder),  # without the adapters of the package's own index
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: isolation is off
            "PIP_NO_DEPS": "1",
            "PIP_QUIET": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        done = subprocess.run(
            ["bash", "-c", command], cwd=where, env=variables, capture_output=True, text=True, check=False
        )
        assert fails or done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done


def environment(folder: Path) -> Environment:
    """Make an environment; ``python``, ``pip`` and ``adapt`` are its own."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "seen.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    programs = {"pip": "-m pip", "adapt": "-c 'import sys; from adaptdock.cli import main; sys.exit(main())'"}
    for name, call in programs.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" {call} "$@"\n')
        program.chmod(0o755)
    return Environment(folder)
