"""The HTTP server that Label Studio asks for predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvicorn
from defusedxml.ElementTree import ParseError, fromstring
from fastapi import FastAPI, HTTPException

from adaptdock import AdaptError, Dock, read_card


@dataclass(frozen=True)
class Interface:
    """The control of a labelling interface that an adapter can fill, and the field of a task with the text."""

    kind: str
    """``labels`` for spans, ``choices`` for classes."""
    from_name: str
    to_name: str
    field: str
    values: frozenset[str]
    """The labels that the interface has."""


def interface_of(config: str, kind: str) -> Interface:
    """Return the first control of a kind on a text; raise :class:`AdaptError` where there is none."""
    try:
        root = fromstring(config)
    except ParseError as error:
        raise AdaptError(f"the labelling interface is not XML: {error}") from None
    fields = {
        text.get("name"): text.get("value", "").lstrip("$") for text in root.iter() if text.tag in ("Text", "HyperText")
    }
    for control in root.iter(kind.capitalize()):
        if control.get("toName") in fields:
            values = frozenset(str(part.get("alias") or part.get("value")) for part in control)
            to_name = str(control.get("toName"))
            return Interface(kind, str(control.get("name")), to_name, fields[to_name], values)
    raise AdaptError(f"the labelling interface has no <{kind.capitalize()}> on a <Text>, which this adapter fills")


class Backend:
    """Predictions of one adapter as results of Label Studio."""

    def __init__(self, dock: Dock, name: str) -> None:
        self.dock, self.name = dock, name
        self.task: Any = dock.assembly(name).task
        if not hasattr(self.task, "annotation"):
            raise AdaptError(f"the predictions of {dock.card(name).task.name} do not annotate a text")

    @property
    def version(self) -> str:
        """The name and version of the adapter, as Label Studio shows them."""
        card = self.dock.card(self.name)
        return f"{card.name} {card.version}"

    def predict(self, tasks: Sequence[Mapping[str, Any]], config: str) -> list[dict[str, Any]]:
        """Return a prediction for each task; ``config`` is the XML of the labelling interface."""
        probe = self.task.annotation(self.dock.predict(self.name, ["a"])[0])
        interface = interface_of(config, "choices" if probe.spans is None else "labels")
        texts = [str(task["data"].get(interface.field, "")) for task in tasks]
        predictions = self.dock.predict(self.name, texts)
        return [
            {"result": self._results(prediction, interface), "score": _score(prediction), "model_version": self.version}
            for prediction in predictions
        ]

    def _results(self, prediction: Mapping[str, Any], interface: Interface) -> list[dict[str, Any]]:
        annotation = self.task.annotation(prediction)
        place = {"from_name": interface.from_name, "to_name": interface.to_name, "type": interface.kind}
        if annotation.spans is None:
            choices = [label for label in annotation.labels or () if label in interface.values]
            return [{**place, "value": {"choices": choices}}] if choices else []
        return [
            {**place, "id": f"span-{number}", "value": _region(annotation.text, span)}
            for number, span in enumerate(annotation.spans)
            if span.label in interface.values
        ]


def _region(text: str, span: Any) -> dict[str, Any]:
    """Return the value of a result; its offsets count UTF-16 units, as the page does."""
    start, end = (len(text[:offset].encode("utf-16-le")) // 2 for offset in (span.start, span.end))
    return {"start": start, "end": end, "text": text[span.start : span.end], "labels": [span.label]}


def _score(prediction: Mapping[str, Any]) -> float:
    """Return the confidence of the least certain part, by which active learning orders the tasks."""
    parts = prediction.get("entities", prediction.get("words", [prediction]))
    return min((float(part.get("score", 1.0)) for part in parts), default=1.0)


def application(backend: Backend) -> FastAPI:
    """Return the server with the addresses that Label Studio calls."""
    app = FastAPI(title="adaptdock for Label Studio")

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "adaptdock"}

    @app.post("/setup")
    def setup() -> dict[str, str]:
        return {"model_version": backend.version}

    @app.post("/webhook")
    def webhook() -> dict[str, str]:
        return {}

    @app.post("/predict")
    def predict(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"results": backend.predict(request.get("tasks", []), str(request.get("label_config", "")))}
        except AdaptError as error:
            raise HTTPException(422, str(error)) from None

    return app


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path, exists=True))
@click.option("--backbone", help="Another source of the same weights as the card's.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9090, show_default=True)
def main(adapter: Path, backbone: str | None, host: str, port: int) -> None:
    """Serve predictions of an ADAPTER file to Label Studio."""
    try:
        dock = Dock.open(backbone or read_card(adapter).backbone.id)
        backend = Backend(dock, dock.load(adapter))
    except AdaptError as error:
        raise click.ClickException(str(error)) from None
    uvicorn.run(application(backend), host=host, port=port)
