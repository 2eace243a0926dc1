"""Traces by OpenTelemetry: a span for each HTTP request, and in it two for each input, its wait and its computation.

The standard environment variables of OpenTelemetry decide: with ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or
``OTEL_TRACES_EXPORTER``) spans are sent, without them nothing is imported. A ``traceparent`` header joins the request
to the trace of its client. Names of attributes follow OpenTelemetry's semantic conventions for generative AI.
"""

import os
import time
from concurrent.futures import Future
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from adaptdock import __version__
from adaptdock.errors import UsageError
from adaptdock.serving.scheduling.inference_request import Outcome, Work

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXPORTER, PROTOCOL = "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = "/healthz$,/readyz$,/health$,/metrics$"
"""Regular expressions of the addresses that get no span."""
EXTRA = "pip install 'adaptdock[otel]'"


def tracing() -> "Tracing | None":
    """Return the tracing that the environment asks for; None if it asks for none.

    Raises :class:`UsageError` for an exporter that is not installed.
    """
    name = os.environ.get(EXPORTER, "").strip() or ("otlp" if any(map(os.environ.get, ENDPOINTS)) else "none")
    if name == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        import opentelemetry.instrumentation.asgi  # noqa: F401  # for around(), which cannot refuse
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        asked = f"the environment asks for traces ({EXPORTER} or an endpoint of OTLP is set)"
        raise UsageError(f"{asked}, which need OpenTelemetry: {EXTRA}") from None
    usual = {"service.version": __version__}
    if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") and not os.environ.get("OTEL_SERVICE_NAME"):
        usual["service.name"] = "adaptdock"
    provider = TracerProvider(resource=Resource.create(usual))
    provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return Tracing(provider)


def _exporter(name: str) -> "SpanExporter":
    """Return an exporter by its name in ``OTEL_TRACES_EXPORTER``."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(PROTOCOL) or "http/protobuf"
    entry = f"otlp_proto_{protocol.removesuffix('/protobuf')}" if name == "otlp" else name
    known = {plugin.name: plugin for plugin in entry_points(group="opentelemetry_traces_exporter")}
    if entry not in known:
        choice = f"{EXPORTER} is {name!r}" + (f" and {PROTOCOL} {protocol!r}" if name == "otlp" else "")
        raise UsageError(
            f"{choice}, for which no exporter is installed; there are {', '.join(sorted(known))}. OTLP over HTTP comes "
            f"with {EXTRA}, other exporters with packages of their own."
        )
    exporter: SpanExporter = known[entry].load()()
    return exporter


class Tracing:
    """The spans of a serving process."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("adaptdock", __version__)

    def around(self, app: "ASGIApp") -> "ASGIApp":
        """Return an ASGI application that gives each request a span; probes get none."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(
            _Routes(app),
            excluded_urls=UNTRACED,
            default_span_details=lambda scope: (scope.get("method", "HTTP"), {}),
            tracer_provider=self._provider,
            exclude_spans=["receive", "send"],
        )

    def follow(self, work: Work) -> None:
        """Give an input its spans once it is answered, in the span of the request that is being read now."""
        from opentelemetry.context import get_current

        request = get_current()
        work.future.add_done_callback(lambda answer: self._end(work, answer, request))

    def _end(self, work: Work, answer: "Future[Outcome]", request: "Context") -> None:
        from opentelemetry.trace import Status, StatusCode

        shift, now = time.time_ns() - time.monotonic_ns(), time.monotonic()
        moments = [int(moment * 1e9) + shift for moment in (work.since, work.began or now, now)]
        names = ("wait", "compute") if work.began else ("wait",)
        for name, start, end in zip(names, moments, moments[1:], strict=False):
            span = self._tracer.start_span(name, request, attributes=_attributes(work), start_time=start)
            if name == names[-1]:
                error = None if answer.cancelled() else answer.exception()
                if error is not None:
                    span.set_status(Status(StatusCode.ERROR, str(error)))
                    span.set_attribute("error.type", type(error).__name__)
                elif not answer.cancelled():
                    span.set_attribute("gen_ai.usage.input_tokens", answer.result().read_tokens)
                    span.set_attribute("gen_ai.usage.output_tokens", answer.result().new_tokens)
            span.end(end)

    def close(self) -> None:
        """Send the spans that are not sent yet."""
        self._provider.shutdown()


def _attributes(work: Work) -> dict[str, str]:
    names = {"gen_ai.request.model": work.name, "gen_ai.response.model": work.key}
    return {key: value for key, value in names.items() if value}


class _Routes:
    """Names the span of a request by its route, as an adapter's name in the path would make every span another."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from opentelemetry.trace import format_trace_id, get_current_span

        span = get_current_span()
        if span.is_recording():
            scope.setdefault("state", {})["trace_id"] = format_trace_id(span.get_span_context().trace_id)

        async def name(message: "Message") -> None:
            route: Any = scope.get("route")
            if message["type"] == "http.response.start" and route is not None:
                span.update_name(f"{scope['method']} {route.path}")
                span.set_attribute("http.route", route.path)
            await send(message)

        await self._app(scope, receive, name)
