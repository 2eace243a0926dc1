"""An open-loop load on three servers with the same HTTP layer: this one, a pipeline per task, PEFT with set_adapter.

    python benchmarks/serving.py --adapters 1,8,64,512 --seconds 20

Each side is a process with FastAPI and uvicorn, the load is another one: requests of one text leave at random times
(Poisson) whether or not earlier ones were answered, for adapters of three tasks in turn. The rate doubles until a side
answers too late (p99 above --limit) or too few; between that rate and the last one that it held, three rates more are
tried, and the highest one held (known to 9 %) is its throughput.
"""

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import machine

TASKS = (("ner", 7), ("sentiment", 2), ("topic", 10))
METHODS = {"lora": {"rank": 8}, "bottleneck": {"reduction_factor": 16}, "prefix": {"length": 16}}
SENTENCE = "the company said on monday that its new plant near the river will open in march with two people"
LEAST_ANSWERED, REFINED = 0.99, 3


def build(folder: Path, count: int, methods: Sequence[str]) -> list[str]:
    """Write untrained adapters of methods and tasks in turn, with weights that act, and return their names."""
    from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
    from adaptdock.engine.core.loading import load_backbone
    from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
    from adaptdock.hub.artefact.file import AdapterFile, write_file
    from adaptdock.plugins.contracts import LoadOptions

    backbone, names = load_backbone("minilm", LoadOptions(device="cpu")), []
    for number in range(count):
        method = methods[number % len(methods)]
        kind, classes = TASKS[number % len(TASKS)]
        task = make_task(
            kind, {"labels": [f"C{place}" for place in range((classes - 1) // 2 if kind == "ner" else classes)]}
        )
        entries = method_entries(method, METHODS[method])
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: (tensor + 0.02 * torch.randn(tensor.shape, generator=generator)).half()
            for name, tensor in assemble(backbone, entries, task).start(generator).items()
        }
        card = Card(
            name=f"a{number}",
            task=entry("task", kind, task.options),
            methods=entries,
            backbone=BackboneEntry(id="minilm", architecture=backbone.architecture, fingerprint=backbone.fingerprint),
            preprocessing=Preprocessing(max_length=128),
        )
        write_file(folder / f"a{number}.safetensors", AdapterFile(card, tensors))
        names.append(f"a{number}")
    return names


# -------------------------------------------------------------------------------------------- sides


def ours(port: int, folder: str, names: Sequence[str], dtype: str = "float32") -> None:
    """Serve as ``adapt serve`` does."""
    from adaptdock.cli.common.library_warnings import quiet
    from adaptdock.plugins.contracts import LoadOptions
    from adaptdock.serving.configuration import ServingOptions
    from adaptdock.serving.http.process import serve

    quiet()
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # a line a request is not what is measured
    options = ServingOptions(
        adapters=folder, port=port, queue=100_000, queue_per_adapter=100_000, timeout=120, queue_seconds=120
    )
    serve(options, LoadOptions(device="cpu", dtype=dtype))


def pipelines(port: int, folder: str, names: Sequence[str]) -> None:
    """Serve one transformers pipeline per task: each adapter would need one of its own, here three stand for all."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, pipeline

    kinds = {"ner": AutoModelForTokenClassification, "sentiment": AutoModelForSequenceClassification}
    made = {}
    for task, classes in TASKS:
        source, tokenizer = _minilm()
        model = kinds.get(task, AutoModelForSequenceClassification).from_pretrained(source, num_labels=classes).eval()
        kind = "token-classification" if task == "ner" else "text-classification"
        made[task] = pipeline(kind, model=model, tokenizer=tokenizer)

    def answer(name: str, text: str) -> Any:
        return made[TASKS[int(name[1:]) % len(TASKS)][0]](text)

    _plain_server(port, answer)


def peft(port: int, folder: str, names: Sequence[str], dtype: torch.dtype = torch.float32) -> None:
    """Serve PEFT LoRA adapters of the same shape, set for each request, with a head each."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    source, tokenizer = _minilm()
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(AutoModel.from_pretrained(source, dtype=dtype), config, names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    model.eval()
    heads = {name: torch.nn.Linear(384, TASKS[int(name[1:]) % len(TASKS)][1], dtype=dtype) for name in names}

    @torch.inference_mode()
    def answer(name: str, text: str) -> Any:
        model.set_adapter(name)
        given = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        hidden = model(**given)[0]
        hidden = hidden if TASKS[int(name[1:]) % len(TASKS)][0] == "ner" else hidden.mean(1)
        return heads[name](hidden).softmax(-1).argmax(-1).tolist()

    _plain_server(port, answer)


def _minilm() -> tuple[str, Any]:
    from transformers import AutoTokenizer

    from adaptdock.backbones.transformers.checkpoint import resolve

    source = str(resolve("minilm", None).folder)
    return source, AutoTokenizer.from_pretrained(source)


def _plain_server(port: int, answer: Callable[[str, str], Any]) -> None:
    """Serve the same route with the same libraries; one thread computes, one request after the other."""
    from concurrent.futures import ThreadPoolExecutor

    import uvicorn
    from fastapi import FastAPI

    from adaptdock.serving.schemas import PredictRequest

    app, thread = FastAPI(), ThreadPoolExecutor(1)

    @app.post("/v1/predict")
    async def predict(body: PredictRequest) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        found = [await loop.run_in_executor(thread, answer, body.adapter, text) for text in body.inputs]
        return {"predictions": [{"adapter": body.adapter, "prediction": one} for one in found]}

    @app.get("/readyz")
    async def readyz() -> str:
        return "ok"

    gc.collect()
    gc.freeze()  # as the other side does
    uvicorn.run(app, port=port, log_level="critical", http="h11")


SIDES: dict[str, Callable[[int, str, Sequence[str]], None]] = {
    "adaptdock": ours,
    "adaptdock in bf16": partial(ours, dtype="bfloat16"),
    "pipelines": pipelines,
    "PEFT": peft,
    "PEFT in bf16": partial(peft, dtype=torch.bfloat16),
}


# --------------------------------------------------------------------------------------------- load


def load(port: int, names: Sequence[str], rate: float, seconds: float, channel: Any) -> None:
    """Send requests at random times and put their latencies into the channel; runs in a process of its own."""
    channel.put(asyncio.run(_load(port, names, rate, seconds)))


async def _load(port: int, names: Sequence[str], rate: float, seconds: float) -> list[float | None]:
    draw = random.Random(int(rate))
    pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    tasks, now, number = [], 0.0, 0
    began = time.perf_counter()
    while now < seconds:
        now += draw.expovariate(rate)
        text = " ".join(draw.choices(SENTENCE.split(), k=draw.randint(6, 24)))
        body = json.dumps({"adapter": names[number % len(names)], "inputs": [text]}).encode()
        number += 1
        await asyncio.sleep(max(0.0, began + now - time.perf_counter()))
        tasks.append(asyncio.create_task(_request(port, body, began + now, pool)))
    return await asyncio.gather(*tasks)


async def _request(port: int, body: bytes, due: float, pool: list[Any]) -> float | None:
    """Return the seconds from when the request was due to its answer; None where there is none."""
    try:
        reader, writer = pool.pop() if pool else await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answered = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        size = next(int(line.split(b":")[1]) for line in answered.lower().split(b"\r\n") if b"content-length" in line)
        await reader.readexactly(size)
        pool.append((reader, writer))
        return time.perf_counter() - due if answered.startswith(b"HTTP/1.1 200") else None
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None


def run_load(port: int, names: Sequence[str], rate: float, seconds: float) -> list[float | None]:
    """Run the load in another process."""
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    process = context.Process(target=load, args=(port, names, rate, seconds, channel))
    process.start()
    found: list[float | None] = channel.get()
    process.join()
    return found


# ------------------------------------------------------------------------------------------ measure


def throughput(port: int, names: Sequence[str], seconds: float, limit: float, start: float) -> dict[str, float]:
    """Look for the highest rate that the server holds, and return what was measured at it."""
    run_load(port, names, start, min(seconds, 5))  # to warm up
    best, missed = {"rate": 0.0, "p50": math.nan, "p95": math.nan, "p99": math.nan}, start
    while (found := held(port, names, missed, seconds, limit)) is not None:
        best, missed = found, 2 * missed
    if not best["rate"]:
        return best
    kept = missed / 2
    for _ in range(REFINED):
        middle = math.sqrt(kept * missed)
        found = held(port, names, middle, seconds, limit)
        if found is None:
            missed = middle
        else:
            best, kept = found, middle
    return best


def held(port: int, names: Sequence[str], rate: float, seconds: float, limit: float) -> dict[str, float] | None:
    """Return what was measured at a rate; None where the server answered too late, or too few."""
    found = run_load(port, names, rate, seconds)
    good = sorted(one for one in found if one is not None)
    if len(good) < LEAST_ANSWERED * len(found):
        return None
    cuts = statistics.quantiles(good, n=100)
    if cuts[98] > limit:
        return None
    return {"rate": len(good) / seconds, "p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def measure(side: str, folder: str, names: Sequence[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Start a side, load it, and return its throughput and the memory of its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=SIDES[side], args=(port, folder, names))
    process.start()
    try:
        _await(port, process)
        found = throughput(port, names, arguments.seconds, arguments.limit, arguments.start)
        found["memory"] = psutil.Process(process.pid).memory_info().rss / 2**20
        return found
    finally:
        process.terminate()
        process.join(20)
        if process.is_alive():
            process.kill()


def _await(port: int, process: Any) -> None:
    for _ in range(1200):
        if not process.is_alive():
            raise SystemExit("a server ended before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise SystemExit("a server did not become ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", default="1,8,64,512")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--methods", default=",".join(METHODS), help="of adaptdock's adapters; PEFT's are LoRA")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--limit", type=float, default=0.5, help="the p99 that has to be held, in seconds")
    parser.add_argument("--start", type=float, default=10, help="the first rate, in requests a second")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(machine())
    print(f"\np99 at most {arguments.limit} s; one text of 6 to 24 words a request\n")
    print("| adapters | side | requests/s | p50 ms | p95 ms | p99 ms | MiB |\n|---|---|---|---|---|---|---|")
    for count in map(int, arguments.adapters.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            names = build(Path(folder), count, arguments.methods.split(","))
            rounds: dict[str, list[dict[str, float]]] = {side: [] for side in arguments.sides.split(",")}
            for _ in range(arguments.rounds):
                for side, found in rounds.items():
                    found.append(measure(side, folder, names, arguments))
        for side, found in rounds.items():
            middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
            times = " | ".join(f"{1e3 * middle[key]:.0f}" for key in ("p50", "p95", "p99"))
            print(f"| {count} | {side} | {middle['rate']:.1f} | {times} | {middle['memory']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
