"""Errors of the view's storage, and their translation from SQLite's."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw


class ViewError(Exception):
    """The view cannot be read or written; another attempt may succeed."""


class ViewUnavailable(ViewError):
    """The view is not there yet, or is being replaced."""


class ViewDamaged(ViewError):
    """The view's file is damaged; it has to be built again."""


class ContentRefused(ViewError):
    """The view's schema does not allow a row's content; another attempt fails, too."""


class TimeLimitPassed(ViewError):
    """A read took longer than it may."""


_ERRORS: tuple[tuple[tuple[type[apsw.Error], ...], type[ViewError]], ...] = (
    ((apsw.CantOpenError, apsw.SchemaChangeError), ViewUnavailable),
    ((apsw.CorruptError, apsw.NotADBError, apsw.FormatError), ViewDamaged),
    ((apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError), ContentRefused),
    ((apsw.InterruptError,), TimeLimitPassed),
    ((apsw.Error,), ViewError),
)


@contextmanager
def sqlite_errors() -> Iterator[None]:
    """Raise the errors of SQLite inside as `ViewError`s. Also a decorator."""
    try:
        yield
    except apsw.Error as error:
        raise view_error(error) from error


def view_error(error: apsw.Error) -> ViewError:
    """Return our error for one of SQLite's."""
    kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
    return kind(f"{type(error).__name__}: {error}")
