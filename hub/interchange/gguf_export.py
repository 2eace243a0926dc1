"""Export of LoRA to GGUF, the format that llama.cpp loads with ``--lora``.

Keys and names are those of llama.cpp's ``convert_lora_to_gguf.py``: ``general.type`` adapter, ``adapter.type`` lora,
``adapter.lora.alpha``, and for each linear layer ``<name>.weight.lora_a`` (rank, inputs) and ``<name>.weight.lora_b``
(outputs, rank). llama.cpp multiplies the product by alpha / rank. It stores the outputs of Llama's queries and keys in
another order, so B has that order too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.interchange.outgoing import Outgoing, refuse_head
from adaptdock.hub.interchange.peft_export import peft_adapter
from adaptdock.plugins.toolkit import heads
from adaptdock.plugins.toolkit.interchange.ports import config_of
from adaptdock.plugins.toolkit.interchange.tensors import refuse

if TYPE_CHECKING:
    from torch import Tensor

FILE = "adapter.gguf"
ARCHITECTURES = {
    **{name: name for name in ("gemma", "gemma2", "gpt2", "llama", "qwen2", "qwen3")},
    "gemma3_text": "gemma3",
    "mistral": "llama",
}
"""Architecture of transformers -> its name in llama.cpp, where weights keep their layout but for :data:`ORDERED`."""
ORDERED = {"llama": {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}}
"""Name in llama.cpp -> linear layers with reordered outputs, each with the option that counts its heads."""
A, B = ".lora_A.weight", ".lora_B.weight"


def write_gguf(out: Outgoing, folder: Path) -> list[str]:
    """Write an adapter as a GGUF file, and return notes for the user.

    Raises :class:`UsageError` for an architecture without such a file, for a head of the adapter's own, and for a
    change that LoRA cannot hold. The folder is written atomically.
    """
    import gguf

    name = ARCHITECTURES.get(out.backbone.architecture)
    if name is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise refuse(f"an adapter for {out.backbone.architecture}", f"GGUF files are written for {known}")
    if out.head is not None and not isinstance(out.head, heads.LanguageModelHead):
        raise refuse_head(out, "llama.cpp reads the model's own LM head")
    config, tensors = _factors(out)
    number = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(number, int(config_of(out.backbone).num_hidden_layers))
    with atomic_folder(folder) as temporary:
        writer = gguf.GGUFWriter(temporary / FILE, name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(out.card.name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
        if config.get("alora_invocation_tokens"):
            writer.add_array(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, config["alora_invocation_tokens"])
        for path, (down, up) in tensors.items():
            stored = names.get_name(path, try_suffixes=(".weight",))
            if stored is None:
                raise refuse(f"LoRA at {path}", f"llama.cpp has no weight for it in {name}")
            stored = stored.removesuffix(".weight")
            writer.add_tensor(f"{stored}.weight.lora_a", down.float().contiguous().numpy())
            writer.add_tensor(f"{stored}.weight.lora_b", _ordered(up, path, name, out).float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out.notes


def _factors(out: Outgoing) -> "tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]":
    """Return the configuration of LoRA, with its alpha for a scale of alpha / rank, and A and B by path."""
    adapter = peft_adapter(out, merged=False)
    if adapter.config["peft_type"] != "LORA" or adapter.config.get("use_dora"):
        adapter = peft_adapter(out, merged=True)
    config = adapter.config
    rest = [name for name in adapter.tensors if not name.endswith((A, B))]
    if rest:
        raise refuse(f"the tensor {rest[0]!r}", "a GGUF file holds the factors of LoRA, and no biases")
    alpha = config["lora_alpha"] * (config["r"] ** 0.5 if config.get("use_rslora") else 1)
    paths = [name.removesuffix(A) for name in adapter.tensors if name.endswith(A)]
    factors = {path: (adapter.tensors[f"{path}{A}"].cpu(), adapter.tensors[f"{path}{B}"].cpu()) for path in paths}
    return {**config, "lora_alpha": alpha}, factors


def _ordered(up: "Tensor", path: str, name: str, out: Outgoing) -> "Tensor":
    """Return B with the outputs in the order of llama.cpp: in each head, the two halves interleaved."""
    option = ORDERED.get(name, {}).get(path.rpartition(".")[2])
    if option is None:
        return up
    count = int(getattr(config_of(out.backbone), option))
    return up.reshape(count, 2, -1, up.shape[1]).transpose(1, 2).reshape(up.shape)
