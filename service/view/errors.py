"""Errors of reading the view; SQLite's own stay inside `service.view`."""


class ViewError(Exception):
    """The view could not be read."""


class ViewUnavailable(ViewError):
    """The view is not there yet, or is being rebuilt or moved away: try again."""


class ViewDamaged(ViewError):
    """The view's file has not the content that it must have."""


class ReadTooLong(ViewError):
    """A read was interrupted at its time limit."""
