"""The line that says on what a benchmark ran."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Return processor, threads, instruction sets that matter, and versions."""
    info = Path("/proc/cpuinfo").read_text()
    lines = info.splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    sets = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile") if flag in flags]
    return (
        f"{name} ({', '.join(sets) or 'no vector sets known'}), {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
