"""A llama2.c checkpoint becomes a folder of transformers: the same logits, the same tokens, a usable backbone."""

import struct
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import LoadOptions

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_llama2c.py"
WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, POSITIONS = 16, 24, 2, 4, 2, 32
PIECES = ["t", "h", "e", "c", "a", " ", "s", ".", "é", " t", "he", " the", "at", "cat", " cat", "th", "s."]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("convert_llama2c", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["convert_llama2c"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vocabulary() -> list[tuple[bytes, float]]:
    special = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    single = [(f"<0x{byte:02X}>".encode(), 0.0) for byte in range(256)]
    return special + single + [(piece.encode(), -float(n)) for n, piece in enumerate(PIECES)]


def weights(shared: bool, size: int) -> dict[str, Tensor]:
    """Random weights in the order of the file, under the names that run.c has for them."""
    head, generator = WIDTH // HEADS, torch.Generator().manual_seed(0)
    shapes = {
        "embedding": (size, WIDTH),
        "rms_att": (LAYERS, WIDTH),
        "wq": (LAYERS, WIDTH, WIDTH),
        "wk": (LAYERS, KEY_HEADS * head, WIDTH),
        "wv": (LAYERS, KEY_HEADS * head, WIDTH),
        "wo": (LAYERS, WIDTH, WIDTH),
        "rms_ffn": (LAYERS, WIDTH),
        "w1": (LAYERS, INNER, WIDTH),
        "w2": (LAYERS, WIDTH, INNER),
        "w3": (LAYERS, INNER, WIDTH),
        "rms_final": (WIDTH,),
        "cosines": (POSITIONS, head // 2),
        "sines": (POSITIONS, head // 2),
        **({} if shared else {"wcls": (size, WIDTH)}),
    }
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def write(folder: Path, shared: bool = True) -> tuple[Path, Path, dict[str, Tensor]]:
    pieces = vocabulary()
    found = weights(shared, len(pieces))
    size = len(pieces) if shared else -len(pieces)
    header = struct.pack("<7i", WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, size, POSITIONS)
    checkpoint, tokenizer = folder / "model.bin", folder / "tok.bin"
    checkpoint.write_bytes(header + b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in found.values()))
    packed = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces)
    tokenizer.write_bytes(struct.pack("<i", 7) + packed)
    return checkpoint, tokenizer, found


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean() + 1e-5).sqrt()


def reference(w: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """Logits of the last token by the loops of run.c's forward, one position after the other."""
    head, group = WIDTH // HEADS, HEADS // KEY_HEADS
    keys: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    values: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    for position, token in enumerate(tokens):
        x = w["embedding"][token].clone()
        for layer in range(LAYERS):
            y = norm(x, w["rms_att"][layer])
            q, k, v = (w[name][layer] @ y for name in ("wq", "wk", "wv"))
            for vector in (q, k):
                for i in range(0, len(vector), 2):
                    angle = torch.tensor(position / 10000.0 ** ((i % head) / head))
                    one, other = vector[i].item(), vector[i + 1].item()
                    vector[i] = one * angle.cos() - other * angle.sin()
                    vector[i + 1] = one * angle.sin() + other * angle.cos()
            keys[layer].append(k)
            values[layer].append(v)
            attended = []
            for h in range(HEADS):
                own = slice(h // group * head, (h // group + 1) * head)
                scores = torch.stack([q[h * head : (h + 1) * head] @ key[own] for key in keys[layer]]) / head**0.5
                attended.append(scores.softmax(0) @ torch.stack([value[own] for value in values[layer]]))
            x = x + w["wo"][layer] @ torch.cat(attended)
            y = norm(x, w["rms_ffn"][layer])
            x = x + w["w2"][layer] @ (torch.nn.functional.silu(w["w1"][layer] @ y) * (w["w3"][layer] @ y))
    return w.get("wcls", w["embedding"]) @ norm(x, w["rms_final"])


def encoded(text: str) -> list[int]:
    """Tokens by run.c's encode: characters or their bytes, then the best union of neighbours while there is one."""
    ids = {piece.decode(): number for number, (piece, _) in enumerate(vocabulary()) if number >= 259}
    names = {number: piece for piece, number in ids.items()}
    found = [ids[" "]] if text else []
    for letter in text:
        found += [ids[letter]] if letter in ids else [byte + 3 for byte in letter.encode()]
    while True:
        unions = [
            (vocabulary()[ids[names[one] + names[other]]][1], -place, ids[names[one] + names[other]])
            for place, (one, other) in enumerate(pairwise(found))
            if one in names and other in names and names[one] + names[other] in ids
        ]
        if not unions:
            return found
        _, place, token = max(unions)
        found[-place : -place + 2] = [token]


@pytest.mark.parametrize("shared", [True, False])
def test_the_logits_are_those_of_the_equations_of_llama2c(script: ModuleType, tmp_path: Path, shared: bool) -> None:
    checkpoint, tokenizer, found = write(tmp_path, shared)
    script.convert(checkpoint, tokenizer, tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokens = [1, 270, 262, 5, 261, 263, 275, 9]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    for length in (1, 2, len(tokens)):
        torch.testing.assert_close(logits[length - 1], reference(found, tokens[:length]), atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("thecas .éx\n🙂"), max_size=12))
def test_texts_become_the_tokens_of_llama2c_and_come_back(text: str) -> None:
    tokenizer = sys.modules["convert_llama2c"].make_tokenizer(vocabulary(), POSITIONS)
    assert tokenizer(text)["input_ids"] == [1, *encoded(text)]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_folder_is_a_backbone_that_writes(script: ModuleType, tmp_path: Path) -> None:
    checkpoint, tokenizer, _ = write(tmp_path)
    script.convert(checkpoint, tokenizer, tmp_path / "folder")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert loaded("the cat.")["input_ids"] == [1, *encoded("the cat.")]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.model_max_length) == (1, 2, POSITIONS)
    backbone = load_backbone(str(tmp_path / "folder"), LoadOptions(device="cpu"))
    assert backbone.causal
    (written,) = Dock(backbone).generate(None, ["the cat"], max_new_tokens=4)
    assert isinstance(written, str)


def test_what_is_no_checkpoint_is_refused_by_its_name(script: ModuleType, tmp_path: Path) -> None:
    checkpoint, tokenizer, _ = write(tmp_path)
    whole, pieces = checkpoint.read_bytes(), tokenizer.read_bytes()
    for content, words in (
        (whole[:-4], "bytes, where its header makes"),
        (b"24ka" + whole, "of version 1 or 2"),
        (whole[:10], "too few for a header"),
        (struct.pack("<7i", *[0] * 7), "no header of llama2.c"),
    ):
        checkpoint.write_bytes(content)
        with pytest.raises(script.FormatError, match=rf"model\.bin: .*{words}"):
            script.read_checkpoint(checkpoint)
    size = len(vocabulary())
    for content, words in ((pieces[:-1], "is broken off"), (pieces + pieces[4:17], f"{size + 1} tokens")):
        tokenizer.write_bytes(content)
        with pytest.raises(script.FormatError, match=rf"tok\.bin: .*{words}"):
            script.read_vocabulary(tokenizer, size)
