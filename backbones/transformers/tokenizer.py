"""The tokenizer that belongs to a checkpoint."""

from typing import Any

from transformers import AutoTokenizer

from adaptdock.backbones.transformers.checkpoint import Checkpoint
from adaptdock.plugins.contracts import LoadOptions

FILES = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken", "added_tokens.json", "special_tokens_map.json")
"""Names of tokenizer files; a folder with none of them has no tokenizer."""


def load_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Return the tokenizer of a checkpoint, with a padding token; None for a folder without a tokenizer."""
    if not checkpoint.gguf and not any(file for name in FILES for file in checkpoint.folder.glob(name)):
        return None
    arguments: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, trust_remote_code=options.trust_remote_code, **arguments
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer
