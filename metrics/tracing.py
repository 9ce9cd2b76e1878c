"""Traces by OpenTelemetry, off unless its variables name a receiver: `OTEL_EXPORTER_OTLP_ENDPOINT`.

Until then nothing of OpenTelemetry is imported. Names and attributes are those of its semantic
conventions. A span has no personal data: no address, no id of a session or a user, no text.
"""

import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPMethod
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import structlog

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOL = "http/protobuf"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")

FLUSH_WITHIN = 1.0
"""Seconds for the last spans at the end of a process; those left are dropped."""

SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Statuses of gRPC that are errors of a server, by the semantic conventions."""

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Behaviour = Callable[[Any, Any], Awaitable[Any]]
Span = AbstractContextManager[Any]
StartSpan = Callable[[str, Mapping[str, Any], Mapping[str, Any] | None], Span]
"""Starts a span, given its name, its attributes, and the headers of a caller, or None for a span
inside of another one."""

_W3C = ("traceparent", "tracestate")
_METHODS = frozenset(map(str, HTTPMethod))
_NOTHING = nullcontext()

_start_span: StartSpan | None = None  # None: off

log = structlog.get_logger()


def is_wanted() -> bool:
    """Return True if the environment asks for traces."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return any(map(os.environ.get, ENDPOINTS)) and exporter == "otlp" and not disabled


def problem() -> str:
    """Return the reason why traces that are wanted cannot be sent, or ""."""
    if not is_wanted():
        return ""
    if not find_spec("opentelemetry"):
        return f"{ENDPOINTS[0]} needs the extra: pip install 'desk-sessions[otel]'"
    wrong = [name for name in PROTOCOLS if os.environ.get(name) not in (None, "", PROTOCOL)]
    return f"{wrong[0]} must be {PROTOCOL}" if wrong else ""


@contextmanager
def sending(process: str) -> Iterator[None]:
    """Send the spans of this process, in a thread, if the environment asks for it."""
    stop = None
    try:
        stop = _start(process) if is_wanted() and not problem() else None
    except Exception as error:  # such as a variable that OpenTelemetry does not accept
        log.warning("not_traced", reason=f"{type(error).__name__}: {error}")
    try:
        yield
    finally:
        if stop:
            flush = threading.Thread(target=stop, name="traces", daemon=True)
            flush.start()
            flush.join(FLUSH_WITHIN)


def _start(process: str) -> Callable[[], None]:
    """Start tracing; return a function that sends the last spans."""
    global _start_span
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it warns of each retry
    service, release = f"desk-{process.partition('-')[0]}", version("desk-sessions")
    ours = {"service.name": service, "service.version": release, "desk.process": process}
    resource = Resource(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer, w3c = provider.get_tracer("desk", release), TraceContextTextMapPropagator()

    def start_span(
        name: str, attributes: Mapping[str, Any], caller: Mapping[str, Any] | None
    ) -> Span:
        return tracer.start_as_current_span(
            name,
            context=None if caller is None else w3c.extract(caller, Context()),
            kind=SpanKind.INTERNAL if caller is None else SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,  # its message may quote a callback
            set_status_on_exception=False,
        )

    _start_span = start_span
    return provider.shutdown


def span(name: str, **attributes: int) -> Span:
    """Measure the work inside as a span. Attributes get the prefix `desk.`."""
    if not _start_span:
        return _NOTHING
    ours = {f"desk.{key}": value for key, value in attributes.items()}
    return _failing_by_exception(_start_span(name, ours, None))


@contextmanager
def _failing_by_exception(started: Span) -> Iterator[None]:
    with started as made:
        try:
            yield
        except Exception as error:
            _fail(made, type(error).__name__)
            raise


def traced_app(app: WSGI, route: str, untraced: Iterable[str]) -> WSGI:
    """Make a WSGI app with a span for each request, except to `untraced` paths.

    Without tracing it is the app itself. Other paths than `route` are not part of a span.
    """
    start_span, untraced = _start_span, frozenset(untraced)
    if not start_span:
        return app

    def traced(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path in untraced:
            return app(environ, start_response)
        name, method = (method, method) if method in _METHODS else ("HTTP", "_OTHER")
        attributes = {"http.request.method": method, "url.scheme": environ["wsgi.url_scheme"]}
        if path == route:
            name += f" {route}"
            attributes |= {"http.route": route, "url.path": route}
        caller = {key: environ.get(f"HTTP_{key.upper()}", "") for key in _W3C}
        with start_span(name, attributes, caller) as made:

            def respond(status: str, *rest: Any) -> Any:
                made.set_attribute("http.response.status_code", int(status[:3]))
                if status >= "5":
                    _fail(made, status[:3])
                return start_response(status, *rest)

            return app(environ, respond)

    return traced


def traced_call(method: str, behaviour: Behaviour) -> Behaviour:
    """Wrap a unary behaviour of grpc.aio: each call is a span. Without tracing it is the same."""
    start_span = _start_span
    if not start_span:
        return behaviour

    async def traced(requests: Any, context: Any) -> Any:
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        with start_span(method, attributes, dict(context.invocation_metadata())) as made:
            status = "OK"
            try:
                return await behaviour(requests, context)
            except BaseException:
                status = getattr(context.code(), "name", "CANCELLED")
                raise
            finally:
                made.set_attribute("rpc.response.status_code", status)
                if status in SERVER_FAULTS:
                    _fail(made, status)

    return traced


def _fail(made: Any, error: str) -> None:
    from opentelemetry.trace import StatusCode

    made.set_attribute("error.type", error)
    made.set_status(StatusCode.ERROR)
