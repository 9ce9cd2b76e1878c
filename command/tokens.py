"""The callback tokens in force: those of the settings, which follow their file and end in time."""

import structlog

from command.settings import Settings
from command.token_file import Tokens
from service.clients import end_of
from storage.changes import PERIOD, FileProblem, Followed

log = structlog.get_logger()


class CallbackTokens:
    """The tokens of one gateway. For one thread at a time, except for `reload`.

    The file is read at once: a gateway that is started again must not begin with the tokens that
    its supervisor has read long ago. These stay in force only while the file is wrong.

    Args:
        settings: have the first tokens, and the path of their file, if any.
        period: seconds between two looks at the file.
    """

    def __init__(self, settings: Settings, *, period: float = PERIOD) -> None:
        self._settings = settings
        self._tokens = Followed(
            "callback_tokens",
            self._read,
            [path for path in (settings.callback_tokens_file,) if path],
            value=settings.callback_tokens,
            period=period,
        )
        self.reload = self._tokens.reload
        self._in_force: dict[int, tuple[str, ...]] | None = None

    def refresh(self, now: float) -> dict[int, tuple[str, ...]]:
        """Read the file if it has changed. Return the tokens by app that are valid at a time.

        A file that is wrong leaves the old tokens in force, and so does one without any token for
        an app that had one: a file that is half written must not switch the check off.
        """
        self._tokens.refresh()
        valid = valid_tokens(self._tokens.value, now)
        if valid != self._in_force:
            self._in_force = valid
            self._report(valid)
        return valid

    def _read(self) -> Tokens:
        found = self._settings.read_tokens_again()
        if lost := sorted(set(self._tokens.value) - set(found)):
            raise FileProblem(f"no token for app {lost[0]} any more: that needs a restart")
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


def valid_tokens(tokens: Tokens, now: float) -> dict[int, tuple[str, ...]]:
    """Return the tokens that are valid at a Unix time; none for an app whose tokens ended."""
    return {
        app: tuple(
            token.secret.get_secret_value()
            for token in given
            if token.until is None or now < end_of(token.until)
        )
        for app, given in tokens.items()
    }
