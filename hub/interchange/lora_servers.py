"""What servers of language models need for an adapter in the format of peft, by their documented checks.

vLLM (``vllm/lora/peft_helper.py``): LoRA without DoRA and without ``modules_to_save``, of a rank up to
``--max-lora-rank``, which is 16 by default and 512 at most. SGLang (``sglang/srt/lora/lora_config.py``): LoRA with one
rank in all modules, up to ``--max-lora-rank``. Neither reads biases.
"""

from collections.abc import Iterable, Mapping
from typing import Any

DEFAULT_RANK, LARGEST_RANK = 16, 512
"""vLLM's limit of the rank, by default and at most."""
FACTORS = (".lora_A.weight", ".lora_B.weight")


def serving_notes(config: Mapping[str, Any], tensors: Iterable[str]) -> list[str]:
    """Return a note if vLLM or SGLang do not load an adapter of a language model, or need an option for it."""
    if config.get("task_type") != "CAUSAL_LM":
        return []
    reasons = list(_reasons(config, tensors))
    if reasons:
        return [f"vLLM and SGLang do not load this adapter: {'; '.join(reasons)}"]
    if config["r"] > DEFAULT_RANK:
        return [f"vLLM and SGLang load this adapter with --max-lora-rank {config['r']}"]
    return []


def _reasons(config: Mapping[str, Any], tensors: Iterable[str]) -> Iterable[str]:
    if config.get("peft_type") != "LORA":
        yield f"they load LoRA, and this is {config.get('peft_type')}"
        return
    if config.get("use_dora"):
        yield "they have no DoRA"
    if config.get("modules_to_save"):
        yield f"it saves modules in full ({', '.join(config['modules_to_save'])})"
    if config.get("alora_invocation_tokens"):
        yield "it acts only behind certain tokens"
    if config.get("rank_pattern"):
        yield "its ranks differ by module"
    if config["r"] > LARGEST_RANK:
        yield f"its rank {config['r']} is above {LARGEST_RANK}"
    if any(not name.endswith(FACTORS) for name in tensors):
        yield "it has biases"
