"""Silences the warnings of libraries, which address developers.

Called before a command is imported, since some libraries warn on import.
"""

import logging
import os
import sys
import warnings

TALKATIVE = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "torch.utils._pytree",  # of every enumeration that torchao registers
    "torchao",  # of every GPU kernel that a CPU lacks
    "transformers",
)
SETTINGS = {
    "DATASETS_VERBOSITY": "critical",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # transformers draws a bar of GGUF tensors whatever its own setting
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "critical",
}


def quiet() -> None:
    """Silence libraries. PYTHONWARNINGS and the variables of the libraries take precedence."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their errors are raised too
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
