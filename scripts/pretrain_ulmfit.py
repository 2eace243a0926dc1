"""ULMFiT's first stage: a general language model, an AWD-LSTM trained from scratch on plain text.

    python scripts/pretrain_ulmfit.py FOLDER_OF_TXT --output general-lm

writes a folder that ``--backbone`` takes: weights (fastai's names, safetensors), vocabulary, and what training reached.
The recipe is that of AWD-LSTM with fastai's regularisers (activations, and their change from step to step) and Adam
under a slanted triangular rate. Stages two and three are ``adapt train --task clm`` and ``--task classification --on``.
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from adaptdock.backbones.recurrent.awd_lstm import AWDLSTM, Dropout
from adaptdock.backbones.recurrent.fastai_vocabulary import VocabularyTokenizer
from adaptdock.plugins.toolkit.windowing import split_words

SPECIAL = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj"]
ALPHA, BETA = 2.0, 1.0
"""Weights of the two regularisers, fastai's."""


def main() -> None:
    options = parsed()
    torch.manual_seed(options.seed)
    files = sorted(path for path in options.texts.glob("*.txt") if path.name.upper() != "NOTE.TXT")
    held = files[options.every - 1 :: options.every]
    splits = {
        "train": [read(path) for path in files if path not in held],
        "validation": [read(path) for path in held],
    }
    words = vocabulary(splits["train"], options.min_count)
    tokenizer = VocabularyTokenizer(words)
    streams = {name: torch.tensor(stream(texts, tokenizer)) for name, texts in splits.items()}
    print(
        f"{len(files)} texts, {len(words):,} words, " + ", ".join(f"{n} {len(s):,} tokens" for n, s in streams.items())
    )
    share = float((streams["validation"] == tokenizer.unknown).float().mean())
    print(f"{100 * share:.1f} % of the validation tokens are not in the vocabulary")
    model = AWDLSTM(
        len(words),
        options.width,
        options.hidden,
        options.layers,
        padding=tokenizer.pad_token_id,
        dropout=Dropout().times(options.dropout),
    )
    model.start()
    model.tie()
    history = train(model, streams, options)
    write(options.output, model, words, {"history": history, "options": vars(options), "files": len(files)})


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, help="folder of .txt files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--width", type=int, default=128, help="width of the embeddings")
    parser.add_argument("--hidden", type=int, default=256, help="width of the inner layers")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rows", type=int, default=32, help="streams that are read side by side")
    parser.add_argument("--steps", type=int, default=40, help="steps that gradients flow back through")
    parser.add_argument("--rate", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--dropout", type=float, default=0.5, help="factor on the shares that AWD-LSTM drops")
    parser.add_argument("--min-count", type=int, default=3, help="rarer words are unknown ones")
    parser.add_argument("--every", type=int, default=10, help="one text in this many is held out")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read(path: Path) -> str:
    blob = path.read_bytes()
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError:
        return blob.decode("cp1252", "replace")


def vocabulary(texts: list[str], least: int) -> list[str]:
    """Return the special words, then those that occur often enough, the most frequent first."""
    counts: Counter[str] = Counter()
    reader = VocabularyTokenizer(SPECIAL)
    for text in texts:
        counts.update(token.text for token in reader.read(text, split_words(text)))
    return SPECIAL + [word for word, count in counts.most_common() if count >= least and word not in SPECIAL]


def stream(texts: list[str], tokenizer: VocabularyTokenizer) -> list[int]:
    return [number for text in texts for number in tokenizer(text)["input_ids"]]


def blocks(ids: Tensor, rows: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and what follows them (R, T), in the order in which states are carried."""
    length = (len(ids) - 1) // rows
    inputs, targets = (part[: rows * length].view(rows, length) for part in (ids[:-1], ids[1:]))
    for start in range(0, length, steps):
        yield inputs[:, start : start + steps], targets[:, start : start + steps]


def train(model: AWDLSTM, streams: dict[str, Tensor], options: argparse.Namespace) -> list[dict[str, float]]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.8, 0.99), weight_decay=0.01)
    total = options.epochs * sum(1 for _ in blocks(streams["train"], options.rows, options.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: slanted_triangular(step, total))
    history = []
    for epoch in range(options.epochs):
        started, lost, seen = time.monotonic(), 0.0, 0
        model.train()
        states = [[] for _ in model.layers]
        for inputs, targets in blocks(streams["train"], options.rows, options.steps):
            vectors = model.embeddings(inputs)
            hidden = model(vectors, torch.ones_like(inputs), states)
            dropped = model.output_dropout(hidden)
            loss = functional.cross_entropy(model.decoder(dropped).flatten(0, 1), targets.flatten())
            penalty = ALPHA * dropped.pow(2).mean()
            if hidden.shape[1] > 1:
                penalty = penalty + BETA * (hidden[:, 1:] - hidden[:, :-1]).pow(2).mean()
            optimiser.zero_grad()
            (loss + penalty).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            states = [[state.detached() for state in layer] for layer in states]
            lost, seen = lost + loss.item() * targets.numel(), seen + targets.numel()
        found = {
            "epoch": epoch + 1,
            "train_perplexity": round(math.exp(lost / seen), 2),
            "validation_perplexity": round(perplexity(model, streams["validation"], options), 2),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(found), flush=True)
        history.append(found)
    return history


def slanted_triangular(step: int, total: int, cut: float = 0.1, ratio: float = 32.0) -> float:
    """Return the share of the highest rate (Howard and Ruder 2018, equation 3)."""
    turn = max(1, math.floor(total * cut))
    p = step / turn if step < turn else 1 - (step - turn) / (turn * (1 / cut - 1))
    return (1 + max(0.0, p) * (ratio - 1)) / ratio


@torch.no_grad()
def perplexity(model: AWDLSTM, ids: Tensor, options: argparse.Namespace) -> float:
    model.eval()
    states: list[list] = [[] for _ in model.layers]
    lost, seen = 0.0, 0
    for inputs, targets in blocks(ids, 1, 512):
        logits = model.decoder(model(model.embeddings(inputs), torch.ones_like(inputs), states))
        lost += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        seen += targets.numel()
    return math.exp(lost / seen)


def write(folder: Path, model: AWDLSTM, words: list[str], told: dict) -> None:
    state = {"0.encoder.weight": model.embeddings.weight, "1.decoder.bias": model.decoder.bias}
    state["1.decoder.weight"] = model.embeddings.weight.clone()
    for number, layer in enumerate(model.layers):
        at, lstm = f"0.rnns.{number}", layer.ahead
        state[f"{at}.weight_hh_l0_raw"] = lstm.recurrent.weight
        state[f"{at}.module.weight_ih_l0"] = lstm.input.weight
        state[f"{at}.module.bias_ih_l0"] = lstm.input.bias
        state[f"{at}.module.bias_hh_l0"] = lstm.recurrent.bias
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, folder / "weights.safetensors")
    (folder / "itos.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    (folder / "training.json").write_text(json.dumps(told, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
