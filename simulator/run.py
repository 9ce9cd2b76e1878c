"""One run: send, verify, summarize."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from time import time

import msgspec

from desk.client import Client
from simulator import summary
from simulator.day import DayPlan, lives_of_a_day
from simulator.ledger import Ledger
from simulator.lives import make_lives
from simulator.progress import ProgressBars
from simulator.report import Report
from simulator.sender import Sender, SendOptions
from simulator.summary import Figures
from simulator.traffic import deliveries
from simulator.verify import note_start, verify
from simulator.verify_figures import verify_figures


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The traffic to send; the fields are the options of the same names."""

    sessions: int
    seed: int
    run: str
    duplicates: float
    shuffle: float
    impossible: float
    malformed: float
    day: DayPlan | None = None


class Run:
    """One run and its results.

    Attributes:
        error: the reason for its early end, set by the caller; empty if there was none.
    """

    def __init__(
        self, options: SendOptions, plan: Plan, connect: Callable[[], Client] | None
    ) -> None:
        self._options = options
        self._plan = plan
        self._connect = connect
        self._figures = Figures()
        self._report: Report | None = None
        self.error = ""

    def execute(self) -> bool:
        """Send and verify. Return True if nothing failed and nothing differs.

        Raises:
            Unreachable: the gateway does not answer.
            ClientError: a call to the service failed.
            Stuck: the service makes no progress.
        """
        try:
            asyncio.run(self._run())
        except KeyboardInterrupt:
            self._figures.interrupted = True
            raise
        return not (self._figures.failed or (self._report and self._report.differences))

    async def _run(self) -> None:
        ledger = Ledger(self._options.sdk_app_id)
        async with AsyncExitStack() as stack:
            progress = stack.enter_context(ProgressBars())
            if self._connect is None:
                await self._send(None, progress)
                return
            client = await stack.enter_async_context(self._connect())
            start = await note_start(client)
            await self._send(ledger, progress)
            report = await verify(client, ledger, start, on_progress=progress.caught_up)
            self._report = report
            await verify_figures(client, ledger, report.revision, report)

    async def _send(self, ledger: Ledger | None, progress: ProgressBars) -> None:
        plan, now = self._plan, round(time() * 1000)
        make = partial(lives_of_a_day, plan.day) if plan.day else make_lives
        lives = make(
            plan.sessions,
            seed=plan.seed,
            run=plan.run,
            now=now,
            impossible=plan.impossible,
            malformed=plan.malformed,
        )
        counted = progress.count(lives, plan.sessions)
        recorded = ledger.record(counted) if ledger else counted
        traffic = deliveries(
            recorded, seed=plan.seed, duplicates=plan.duplicates, shuffle=plan.shuffle
        )
        note = ledger.note if ledger else None
        begin = now if plan.day and plan.day.is_live else None
        await Sender(self._options, self._figures, on_fate=note).send(traffic, begin=begin)

    def as_json(self) -> str:
        """Return the results as one JSON object."""
        document = {"seed": self._plan.seed, "run": self._plan.run, **self._figures.as_json()}
        if self._report:
            document["verification"] = self._report.as_json()
        if self.error:
            document["error"] = self.error
        return json.dumps(document, ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Return the results as lines of text."""
        title = f"seed {self._plan.seed}, run {self._plan.run}"
        parts = [title, summary.as_text(self._figures)]
        if self._report:
            parts.append(self._report.as_text())
        if self.error:
            parts.append(f"failed    {self.error}")
        return "\n".join(parts)
