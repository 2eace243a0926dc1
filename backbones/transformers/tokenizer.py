"""The tokenizer that belongs to a checkpoint."""

from typing import Any

from transformers import AutoTokenizer

from adaptdock.backbones.transformers.checkpoint import Checkpoint
from adaptdock.plugins.contracts import LoadOptions

FILES = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken", "added_tokens.json", "special_tokens_map.json")
"""Names of which some tokenizer's files are; a folder with none of them has no tokenizer."""


def load_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Return the tokenizer of a checkpoint, with a token for padding; None where the folder has none."""
    if not checkpoint.gguf and not any(found for name in FILES for found in checkpoint.folder.glob(name)):
        return None
    arguments: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, trust_remote_code=options.trust_remote_code, **arguments
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer
