"""The log of each process, on stderr: one JSON object per line, or coloured lines on a terminal.

Records of the standard library's loggers (waitress, grpc) go the same way. Lines are bounded, and a
stalled reader of stderr blocks no process. Callers leave out message text, signatures and tokens.
"""

import logging
import os
import sys
import traceback
from asyncio import CancelledError
from typing import NamedTuple

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from command.background import text_output
from command.settings import Settings
from command.throttle import Throttle, ThrottledLogger
from metrics.definitions import LOG_RECORDS_DROPPED

MAX_VALUE = 2_000
"""Characters of one value; a list that is longer becomes text."""

MAX_TRACEBACK = 8_000
"""Characters of a rendered exception. The end is kept: the error is there."""

_FRAMES = 15

log = structlog.get_logger()


class LogOptions(NamedTuple):
    """The settings of the log, for a process that has no others."""

    log_level: str = "info"
    log_format: str = "auto"


def configure(settings: Settings | LogOptions, role: str) -> None:
    """Route every log record of this process to stderr, with `role` as the name of the process."""
    # gRPC's core writes to stderr by itself, in its own format, and would block with its reader.
    # Its errors reach us as exceptions as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Tracebacks, warnings and all other output must not block with the reader either.
    descriptor = sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY)
    sys.stderr = output = text_output(descriptor, on_dropped=_report_dropped)
    LOG_RECORDS_DROPPED.read = lambda: {(): output.buffer.dropped}
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _processors(role)
    throttle = Throttle()
    structlog.configure(
        processors=[throttle, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(allow=["suppressed"]),
                *shared,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _bound,
                _renderer(settings),
            ],
        )
    )
    # gRPC logs a traceback for each client that vanishes, OpenTelemetry one for each failed batch.
    for name in ("grpc", "opentelemetry"):
        handler.addFilter(ThrottledLogger(name, throttle))
    handler.addFilter(_is_no_cancellation)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.raiseExceptions = False  # a record that cannot be written must not cause another


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Leave out the calls whose client has left before they began: gRPC takes that for an error."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def _report_dropped(number: int) -> None:
    log.error("log_records_dropped", number=number)  # error level: they may be errors


def _processors(role: str) -> list[Processor]:
    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = role
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
        structlog.processors.ExceptionRenderer(_render_exception),
    ]


def _renderer(settings: Settings | LogOptions) -> Processor:
    on_terminal = settings.log_format == "auto" and sys.stderr.isatty()
    if settings.log_format == "console" or on_terminal:
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


def _render_exception(exc_info: ExcInfo) -> str:
    # structlog's own renderers show local variables, and a local variable may be a token.
    lines = traceback.format_exception(*exc_info, limit=-_FRAMES)
    return "".join(lines)[-MAX_TRACEBACK:].rstrip()


def _bound(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        longest = MAX_TRACEBACK if name == "exception" else MAX_VALUE
        text = value if isinstance(value, str) else repr(value)
        if len(text) > longest:
            event[name] = text[:longest] + "…"
    return event
