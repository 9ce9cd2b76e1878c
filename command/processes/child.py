"""A child process from its start to its exit: title, log, metrics, traces, errors.

Knows nothing of its work, which is the `run` of a module.
"""

import asyncio
import gc
import platform
from functools import cache
from importlib import import_module
from importlib.metadata import version
from inspect import iscoroutine
from pathlib import Path
from typing import Any

import structlog
from setproctitle import setproctitle

from command import logs
from command.background import leave
from command.notifier import Notifier
from command.processes.opening import Stopped
from command.settings import Settings
from journal.errors import JournalError, Unavailable
from metrics import definitions, tracing
from metrics.endpoint import open_endpoint
from storage.changes import FileProblem

log = structlog.get_logger()


def run_child(
    notifier: Notifier, module: str, name: str, settings: Settings, runtime: Path, *arguments: Any
) -> None:
    """Run a module's `run`. Report an error to the supervisor, and exit.

    Args:
        notifier: reports to the supervisor.
        module: has `run`, which may be a coroutine function, and the groups of its metrics as
            `METRICS`; imported here only.
        name: of the process.
        settings: for `run` as well.
        runtime: the supervisor's runtime folder.
        arguments: for `run`, after the notifier and the settings.
    """
    setproctitle(f"desk: {name}")
    logs.configure(settings, name)
    definitions.BUILD_INFO.read = lambda: _build_info(name)
    code = 1
    try:
        work = import_module(module)
        open_endpoint(runtime, name, *work.METRICS)
        with tracing.sending(name):
            running = work.run(notifier, settings, *arguments)
            if iscoroutine(running):
                asyncio.run(running)
        code = 0
    except Stopped:
        code = 0
    except (Unavailable, FileProblem) as error:
        notifier.trouble(str(error))
    except JournalError as error:
        notifier.failed(str(error))
    except Exception as error:
        log.exception("process_failed")
        notifier.trouble(f"{type(error).__name__}: {error}")
    leave(code)


def report_ready(notifier: Notifier) -> None:
    """Report that the process is ready, and exempt its present objects from garbage collection.

    A collection that walks through all of them would stall the process, and its answers.
    """
    gc.unfreeze()  # after an earlier report: objects of that time may be garbage by now
    gc.collect()
    gc.freeze()
    notifier.ready()


@cache
def _build_info(name: str) -> dict[tuple[str, ...], float]:
    import apsw

    fingerprint = ""
    if name != "gateway":  # which does not load the messages of the API
        from service.view import store

        fingerprint = store.fingerprint()
    versions = version("desk-sessions"), platform.python_version(), version("grpcio")
    return {(*versions, apsw.sqlite_lib_version(), fingerprint): 1}
