"""Compiles noguard.cpp against the installed torch, once for each release of torch, into build/simulated_gpu."""

import os
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("noguard.cpp")
FOLDER = Path(__file__).parents[2] / "build" / "simulated_gpu"


def missing() -> str:
    """Return why nothing can be compiled on this machine; empty where a compiler was found."""
    return "" if shutil.which("g++") else "the simulated GPU is compiled with g++, which is not installed"


def library() -> Path:
    """Return the shared library, compiled if there is none that is newer than its source.

    Raises :class:`RuntimeError` with the compiler's message.
    """
    target = FOLDER / f"noguard-{version('torch')}.so"
    if target.exists() and target.stat().st_mtime >= SOURCE.stat().st_mtime:
        return target
    torch = Path(str(find_spec("torch").origin)).parent  # found, not imported: the library is loaded before torch
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = ["g++", "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{torch / 'include'}", str(SOURCE)]
    command += ["-o", str(unfinished), f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-lc10", "-ltorch_cpu"]
    done = subprocess.run([*command, f"-Wl,-rpath,{torch / 'lib'}"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} does not compile against torch {version('torch')}:\n{done.stderr}")
    unfinished.replace(target)
    return target
