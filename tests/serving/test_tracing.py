"""Traces, received by a collector of OTLP over HTTP as OpenTelemetry's own exporter sends them."""

import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from served import TEXT, serving
from writers import untrained, writing_backbone

from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.tracing import tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """A collector that keeps what it gets: spans by name, and attributes of the resource."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        keep = self.requests.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def spans(self) -> dict[str, list[Any]]:
        spans: dict[str, list[Any]] = {}
        for request in self.requests:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans.setdefault(span.name, []).append(span)
        return spans

    @property
    def resource(self) -> dict[str, str]:
        return {item.key: item.value.string_value for item in self.requests[0].resource_spans[0].resource.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def test_a_request_is_a_span_in_the_trace_of_its_client_with_the_wait_and_computation_of_each_input(
    backbone: Backbone, folder: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(backbone, traces=tracing(), adapters=str(folder)) as client, caplog.at_level(logging.INFO):
        body = {"adapter": ["red", "green"], "inputs": [TEXT, TEXT]}
        answer = client.post("/v1/predict", json=body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert answer.status_code == 200
        client.get("/v1/adapters/red")
        client.get("/healthz")
        client.get("/metrics")
    spans = collector.spans
    assert sorted(spans) == ["GET /v1/adapters/{name}", "POST /v1/predict", "compute", "wait"]
    (request,) = spans["POST /v1/predict"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(request)["http.route"] == "/v1/predict"
    assert len(spans["wait"]) == len(spans["compute"]) == 2
    tokens = len(backbone.tokenizer(TEXT)["input_ids"])
    for wait, compute in zip(spans["wait"], spans["compute"], strict=True):
        assert wait.parent_span_id == compute.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= wait.start_time_unix_nano <= wait.end_time_unix_nano
        assert wait.end_time_unix_nano == compute.start_time_unix_nano <= compute.end_time_unix_nano
        assert compute.end_time_unix_nano <= request.end_time_unix_nano
        assert attributes(compute)["gen_ai.usage.input_tokens"] == tokens
    assert {attributes(span)["gen_ai.request.model"] for span in spans["compute"]} == {"red", "green"}
    assert collector.resource["service.name"] == "adaptdock"
    logged = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("path") == "/v1/predict"]
    assert [fields["trace_id"] for fields in logged] == [TRACE]


def test_a_written_text_has_its_count_of_tokens_and_a_failed_input_its_error(
    tmp_path: Path, collector: Collector
) -> None:
    writer = writing_backbone("llama")
    write_file(tmp_path / "short.safetensors", untrained(writer, "generation", max_new_tokens=8))  # type: ignore[arg-type]
    with serving(writer, traces=tracing(), adapters=str(tmp_path)) as client:
        client.post("/v1/completions", json={"model": "short", "prompt": "the cat", "max_tokens": 3})
        client.post("/v1/completions", json={"model": "short", "prompt": "the cat " * 99, "max_tokens": 3})
    (compute,) = collector.spans["compute"]
    assert attributes(compute)["gen_ai.usage.output_tokens"] == 3
    errors = [wait for wait in collector.spans["wait"] if wait.status.code == wait.status.STATUS_CODE_ERROR]
    assert [attributes(wait)["error.type"] for wait in errors] == ["UsageError"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_without_an_exporter_in_the_environment_nothing_is_traced(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing() is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ["'zipkin'", "console", "otlp_proto_http", "adaptdock[otel]"]),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["OTEL_EXPORTER_OTLP_PROTOCOL 'grpc'", "otlp_proto_http"],
        ),
    ],
)
def test_an_exporter_that_is_not_installed_is_refused_with_those_that_are(
    environment: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as refused:
        tracing()
    assert all(word in str(refused.value) for word in words)


def test_traces_without_the_extra_are_refused_with_the_command_that_installs_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=r"pip install 'adaptdock\[otel\]'"):
        tracing()
