"""`desk simulate`: its options."""

import secrets
import sys
from pathlib import Path

import click

from callback.decoder import SAMPLE_SDK_APP_ID
from simulator.parameters import CallbackUrl, Share, read_token
from simulator.run import Plan, Run
from simulator.sender import Options

MOST_VERIFIED = 100_000
"""Sessions that fit into the memory of a verification: about 1 kB for each of their callbacks."""


@click.command()
@click.argument("url", type=CallbackUrl())
@click.option(
    "--app",
    type=click.IntRange(1, 2**63 - 1),
    default=SAMPLE_SDK_APP_ID,
    show_default=True,
    help="The SDKAppID; without it, the one of the vendor's sample.",
)
@click.option(
    "--sessions",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="How many lives; each is some ten callbacks.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 100_000),
    help="Callbacks per second, sent on schedule whether or not those before were answered; "
    "latency counts from the schedule. Without it: as many as the service takes.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000),
    default=32,
    show_default=True,
    help="Callbacks under way at once, at most.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same lives.")
@click.option("--duplicates", type=Share(), default="0", help="Share sent twice.")
@click.option("--shuffle", type=Share(), default="0", help="Share sent late, out of order.")
@click.option(
    "--impossible",
    type=Share(below_one=True),
    default="0",
    help="Share of events that cannot happen where they stand.",
)
@click.option("--malformed", type=Share(), default="0", help="Share of broken bodies.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign with the token in this file, or in DESK_SIMULATE_TOKEN.",
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
    help="Seconds during which a callback without an answer, or with 5xx, is sent again.",
)
@click.option(
    "--verify",
    "target",
    metavar="HOST:PORT",
    help="Then ask the service there, and report every difference.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def simulate(
    *,
    url: str,
    app: int,
    sessions: int,
    rate: float | None,
    concurrency: int,
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
) -> None:
    """Send made-up callbacks to URL as Desk would: whole lives of sessions, of every kind.

    Exit code 0: all sent, and no difference; 1: not; 3: URL or service cannot be reached;
    130: interrupted.

    \b
    desk simulate http://127.0.0.1:8080 --app 1400000001 --sessions 1000
    desk simulate http://127.0.0.1:8080 --duplicates 10% --shuffle 30% --impossible 5% \\
                  --verify 127.0.0.1:50051
    """  # noqa: D301 (click's mark for text that is not to be wrapped)
    if target and sessions > MOST_VERIFIED:
        raise click.UsageError(f"--verify remembers everything: {MOST_VERIFIED} sessions at most")
    options = Options(
        url=url,
        sdk_app_id=app,
        token=read_token(token_file),
        rate=rate,
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
    )
    run = Run(options, plan, target)
    code = run.to_the_end()
    click.echo(run.as_json() if as_json else run.as_text())
    sys.exit(code)
