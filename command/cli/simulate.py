"""`desk simulate`: send simulated callbacks, and verify what the service makes of them."""

import secrets
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from callback.decoder import SAMPLE_SDK_APP_ID
from command.cli.connection import FAILED, UNREACHABLE, connect, failure_text
from command.cli.simulate_parameters import NOW, BeginOfDay, CallbackUrl, Share, read_token
from command.client_security import security_options
from desk.client import ClientError, Retryable
from simulator.day import DayPlan
from simulator.run import Plan, Run
from simulator.sender import SendOptions, Unreachable
from simulator.verify import Stuck

INTERRUPTED = 130
"""Exit code of the shells for Ctrl-C."""

MAX_VERIFIED = 100_000
"""Sessions of a verified run at most: it keeps about 1 kB in memory for each callback."""


SESSIONS, SESSIONS_OF_A_DAY = 100, 2_000
"""Sessions of a run, unless told otherwise."""


@click.command()
@click.argument("url", type=CallbackUrl())
@click.option(
    "--app",
    type=click.IntRange(1, 2**63 - 1),
    default=SAMPLE_SDK_APP_ID,
    show_default=True,
    help="SDKAppID, a number. The default is the app of the vendor's sample.",
)
@click.option(
    "--sessions",
    type=click.IntRange(1, 1_000_000),
    help="Number of sessions; each is about ten callbacks. Default: 100; of a day, 2000.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 100_000),
    help="Callbacks per second, sent on schedule even if earlier ones are not answered yet; "
    "latency counts from the schedule. Default: as fast as the service answers.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000),
    default=32,
    show_default=True,
    help="Callbacks in flight at once, at most.",
)
@click.option(
    "--day",
    is_flag=True,
    help="Send a day at a contact centre: a day's curve of arrivals, one line, agents on shifts.",
)
@click.option(
    "--agents",
    type=click.IntRange(1, 10_000),
    help="With --day: agents at work over the day. Default: one for 200 sessions.",
)
@click.option(
    "--speed",
    type=click.FloatRange(1, 100_000),
    help="With --day: simulated seconds per second. Default: as fast as the service answers.",
)
@click.option(
    "--begin",
    type=BeginOfDay(),
    help="With --day: its midnight, such as 2026-03-01 or 2026-03-01T00:00+08:00 (UTC unless it "
    "says otherwise). now: events happen when they are sent, in quick motion. "
    "Default: the day ends with the run.",
)
@click.option(
    "--live",
    is_flag=True,
    help="With --day: it is half past ten of that day now. What has happened is sent at once, "
    "the rest when it happens.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same sessions.")
@click.option("--duplicates", type=Share(), default="0", help="Share sent twice.")
@click.option("--shuffle", type=Share(), default="0", help="Share sent late, out of order.")
@click.option(
    "--impossible",
    type=Share(below_one=True),
    default="0",
    help="Share of events that are impossible in the session's state; below 100%.",
)
@click.option("--malformed", type=Share(), default="0", help="Share of broken bodies.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token that signs the callbacks. Default: DESK_SIMULATE_TOKEN.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.05, 60),
    default=5.0,
    show_default=True,
    help="Seconds for one attempt.",
)
@click.option(
    "--retry-for",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds during which a callback is sent again if there is no answer, or a 5xx.",
)
@click.option(
    "--verify",
    "target",
    metavar="HOST:PORT",
    help="After the run, compare with the service at this address, and report differences; board "
    "and report too, if the app has no other sessions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@security_options
def simulate(
    *,
    url: str,
    app: int,
    sessions: int | None,
    rate: float | None,
    concurrency: int,
    day: bool,
    agents: int | None,
    speed: float | None,
    begin: int | None,
    live: bool,
    seed: int,
    duplicates: float,
    shuffle: float,
    impossible: float,
    malformed: float,
    token_file: Path | None,
    timeout: float,
    retry_for: float,
    target: str | None,
    as_json: bool,
    security: dict[str, Any],
) -> None:
    """Send simulated callbacks to URL as Desk would: sessions of every kind, from begin to end.

    A SHARE is 10% or 0.1.

    Exit code 0: all sent, and no difference; 1: a failure or a difference; 3: URL or service
    cannot be reached; 130: interrupted.

    \b
    desk simulate http://127.0.0.1:8080 --app 1400000001 --sessions 1000
    desk simulate http://127.0.0.1:8080 --duplicates 10% --shuffle 30% --impossible 5% \\
                  --verify 127.0.0.1:50051
    desk simulate http://127.0.0.1:8080 --day --live
    desk simulate http://127.0.0.1:8080 --day --speed 60 --verify 127.0.0.1:50051
    """  # noqa: D301 (click's mark for text that is not to be wrapped)
    plan_of_day = _day(day, agents=agents, speed=speed, begin=begin, live=live, rate=rate)
    sessions = sessions or (SESSIONS_OF_A_DAY if day else SESSIONS)
    if target and sessions > MAX_VERIFIED:
        raise click.UsageError(
            f"--verify keeps all callbacks in memory: {MAX_VERIFIED} sessions at most"
        )
    options = SendOptions(
        url=url,
        sdk_app_id=app,
        token=read_token(token_file),
        rate=rate,
        speed=plan_of_day.sending_speed if plan_of_day else None,
        concurrency=concurrency,
        timeout=timeout,
        retry_for=retry_for,
    )
    plan = Plan(
        sessions=sessions,
        seed=seed,
        run=secrets.token_hex(4),
        duplicates=duplicates,
        shuffle=shuffle,
        impossible=impossible,
        malformed=malformed,
        day=plan_of_day,
    )
    run = Run(options, plan, partial(connect, target, security) if target else None)
    code = _execute(run, url, str(target))
    click.echo(run.as_json() if as_json else run.as_text())
    sys.exit(code)


def _execute(run: Run, url: str, target: str) -> int:
    """Execute a run, and note in it why it ended early. Return the exit code."""
    try:
        return 0 if run.execute() else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Unreachable:
        run.error = f"nothing answers at {url}"
        return UNREACHABLE
    except ClientError as error:
        run.error = failure_text(error, target)
        return UNREACHABLE if isinstance(error, Retryable) else FAILED
    except Stuck as error:
        run.error = f"{target}: {error}"
        return FAILED


def _day(
    is_wanted: bool,
    *,
    agents: int | None,
    speed: float | None,
    begin: int | None,
    live: bool,
    rate: float | None,
) -> DayPlan | None:
    if not is_wanted:
        if agents or speed or live or begin is not None:
            raise click.UsageError("--agents, --speed, --begin and --live belong to --day")
        return None
    if rate:
        raise click.UsageError("--day has a --speed, not a --rate")
    if live and (speed or begin is not None):
        raise click.UsageError("--live has neither a --speed nor a --begin")
    if begin == NOW and not speed:
        raise click.UsageError("--begin now needs a --speed")
    return DayPlan(
        agents=agents,
        speed=speed,
        begin=None if begin == NOW else begin,
        is_compressed=begin == NOW,
        is_live=live,
    )
