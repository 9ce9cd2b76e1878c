"""One run: send, verify, summarize."""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from time import time
from typing import Any

import msgspec

from desk.client import ClientError, Retryable
from simulator import summary
from simulator.connection import connect, failure_text
from simulator.day import DayPlan, lives_of_a_day
from simulator.ledger import Ledger
from simulator.lives import make_lives
from simulator.progress import ProgressBars
from simulator.report import Report
from simulator.sender import Sender, SendOptions, Unreachable
from simulator.summary import Figures
from simulator.traffic import deliveries
from simulator.verify import Stuck, note_start, verify
from simulator.verify_figures import verify_figures

FAILED, UNREACHABLE, INTERRUPTED = 1, 3, 130
"""Exit codes, the same as of the other commands; 130 is the shells' code for Ctrl-C."""


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
    """One run and its results."""

    def __init__(
        self, options: SendOptions, plan: Plan, target: str | None, security: dict[str, Any]
    ) -> None:
        self._options = options
        self._plan = plan
        self._target = target
        self._security = security
        self._figures = Figures()
        self._report: Report | None = None
        self._error = ""

    def execute(self) -> int:
        """Send and verify. Return the exit code."""
        try:
            asyncio.run(self._run())
        except KeyboardInterrupt:
            self._figures.interrupted = True
            return INTERRUPTED
        except Unreachable:
            return self._fail(f"nothing answers at {self._options.url}", UNREACHABLE)
        except ClientError as error:
            code = UNREACHABLE if isinstance(error, Retryable) else FAILED
            return self._fail(failure_text(error, str(self._target)), code)
        except Stuck as error:
            return self._fail(f"{self._target}: {error}", FAILED)
        return FAILED if self._figures.failed or (self._report and self._report.differences) else 0

    def _fail(self, error: str, code: int) -> int:
        self._error = error
        return code

    async def _run(self) -> None:
        ledger = Ledger(self._options.sdk_app_id)
        async with AsyncExitStack() as stack:
            progress = stack.enter_context(ProgressBars())
            if self._target is None:
                await self._send(None, progress)
                return
            client = await stack.enter_async_context(connect(self._target, self._security))
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
        if self._error:
            document["error"] = self._error
        return json.dumps(document, ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Return the results as lines of text."""
        title = f"seed {self._plan.seed}, run {self._plan.run}"
        parts = [title, summary.as_text(self._figures)]
        if self._report:
            parts.append(self._report.as_text())
        if self._error:
            parts.append(f"failed    {self._error}")
        return "\n".join(parts)
