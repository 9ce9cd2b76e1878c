"""The callback tokens in force: those of the settings, which follow their file and end in time."""

import structlog

from command.settings import Settings, Tokens
from storage.changes import PERIOD, Changes

log = structlog.get_logger()


class CallbackTokens:
    """The tokens of one gateway. For one thread at a time, but for `reload`.

    Args:
        settings: have the first tokens, and the path of their file, if any.
        period: seconds between two looks at the file.
    """

    def __init__(self, settings: Settings, *, period: float = PERIOD) -> None:
        self._settings = settings
        self._tokens = settings.callback_tokens
        file = settings.callback_tokens_file
        self._changes = Changes(*([file] if file else []), period=period)
        self._in_force: dict[int, tuple[str, ...]] | None = None

    def reload(self) -> None:
        """Have the next `refresh` read the file. May be called by any thread."""
        self._changes.request()

    def refresh(self, now: float) -> dict[int, tuple[str, ...]]:
        """Read the file if it has changed. Return the tokens by app that are valid at a time.

        A file that is wrong leaves the old tokens in force, and so does one without any token for
        an app that had one: a file that is half written must not switch the check off.
        """
        if self._settings.callback_tokens_file and self._changes.found():
            self._read()
        valid = self._settings.valid_tokens(self._tokens, now)
        if valid != self._in_force:
            self._in_force = valid
            self._report(valid)
        return valid

    def _read(self) -> None:
        try:
            self._tokens = self._found()
        except ValueError as error:
            problem = str(error)
            log.warning("callback_tokens_not_reloaded", problem=problem, still="the old tokens")

    def _found(self) -> Tokens:
        found = self._settings.read_tokens_again()
        if lost := sorted(set(self._tokens) - set(found)):
            raise ValueError(f"no token for app {lost[0]} any more: that needs a restart")
        return found

    def _report(self, valid: dict[int, tuple[str, ...]]) -> None:
        apps = self._settings.sdk_app_ids
        log.info(
            "callback_tokens_in_force",
            tokens={app: len(valid[app]) for app in apps if app in valid},
            signatures_not_checked=[app for app in apps if app not in valid],
        )
        for app in (app for app, tokens in valid.items() if not tokens):
            log.error("callback_tokens_ended", sdk_app_id=app, effect="its callbacks are refused")
