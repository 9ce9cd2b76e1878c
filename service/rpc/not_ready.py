"""The answer to every call while there is no complete view: how far its build has come."""

from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from service.rpc.errors import CallRefused, ErrorReason
from service.view import store
from service.view.errors import ViewError
from service.view.reader import Reader


class NotReady:
    """Stands for every service; each of its methods raises VIEW_NOT_READY."""

    def __init__(self, view: Path) -> None:
        self._view = view

    def __getattr__(self, method: str) -> Any:
        return self._refuse

    async def _refuse(self, _request: object, _call: object) -> NoReturn:
        raise CallRefused(ErrorReason.VIEW_NOT_READY, progress_of(self._view))


def progress_of(view: Path) -> str:
    """Return a sentence on how far the view is built."""
    try:
        with closing(Reader(view)) as reader:
            progress = reader.progress()
    except ViewError:
        return _loading(view)
    applied, head = progress.applied_revision, progress.head_revision
    if progress.problem:
        return f"the view ends at revision {applied:,}: the journal cannot be read further"
    percent = 100 * applied // head if head else 0
    return f"the view is being built: revision {applied:,} of {head:,}, {percent} %; try again"


def _loading(view: Path) -> str:
    loaded = store.loaded(view)
    if loaded is None:
        return "the view is not there yet; try again"
    done, total = loaded
    return f"a snapshot of the view is being loaded: {100 * done // max(1, total)} %; try again"
