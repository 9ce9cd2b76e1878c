"""GetSession and ListSessions at 10 thousand, 100 thousand and 1 million sessions.

`desk service` on a view of short sessions, one asyncio client with 16 calls at once. The reference
is an empty unary call of the same server and client: `grpc.health.v1.Health/Check`. Client and
server share the machine, so the server's own processor time per call is measured as well.
Pages: one call at a time, the first page and one deep in the list by turns, with each filter.
etcd, if installed, has values of the size of a session.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from functools import partial
from random import Random
from typing import Any, NamedTuple

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks import load, populations
from benchmarks.callbacks import START, WHALE, session_id
from benchmarks.load import Call, Load
from benchmarks.measurement import Goal, Measurement, NotMeasured, Population
from benchmarks.peers import etcd
from benchmarks.processes import roles
from benchmarks.work import SDK_APP_ID, desk
from desk.v1 import session_service_pb2 as pb
from desk.v1.session_pb2 import EndReason, SessionFilter, SessionState, TimeRange
from desk.v1.session_service_pb2_grpc import SessionServiceStub

NAME = "queries"
REFERENCE = "empty call"
GET, LIST = "GetSession", "ListSessions"
ETCD_GET, ETCD_LIST = "etcd Range of 1", "etcd Range of 100"
FIRST, DEEP = "first page", "deep page"

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (1_000, 5_000)
PAGE, LONGEST_PAGE = 100, 1_000

DEPTH = 0.9
"""Position of the deep page, as a share of all pages."""

MOST_PAGES = 100
"""Pages of 1,000 to read at most on the way there; the rest counts as missing."""

SESSION_BYTES = 200
"""Size of a session as a message."""

_OPTIONS = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)


def rate(sessions: int) -> str:
    """Return the name of a figure."""
    return f"calls/s at {sessions:,} sessions"


def page_time(order_or_filter: str) -> str:
    """Return the name of a figure."""
    return f"page of {PAGE}, {order_or_filter}"


GOALS = (
    *(Goal(what=rate(size), subject=GET, bound=0.85, of=REFERENCE) for size in SIZES),
    Goal(what=rate(SIZES[-1]), subject=GET, bound=0.85, of=GET, of_what=rate(SIZES[0])),
    Goal(what=rate(SIZES[0]), subject=GET, bound=0.85, of=GET, of_what=rate(SIZES[-1])),
)


class Question(NamedTuple):
    """A filter and an order of pages."""

    name: str
    filter: SessionFilter = SessionFilter()
    order_by: str = ""


def needs(*, quick: bool) -> list[Population]:
    """Return the population of each size."""
    return [Population("sessions", size) for size in (QUICK_SIZES if quick else SIZES)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    """Measure each size, and the pages on the largest."""
    needed = needs(quick=quick)
    for population in needed:
        data_dir, size = populations.warmed(population), population.count
        with desk("service", data_dir=data_dir) as service:
            target, worker = service.said["grpc"], roles(service.pid)["rpc worker"]
            loads = asyncio.run(_ask(target, worker, size, seconds=0.3 if quick else 1.0))
            yield from _measurements(loads, size, run)
            if population == needed[-1]:
                yield from _pages(target, size, run, quick=quick)
    yield from _etcd(run, quick=quick)


def _measurements(loads: dict[str, Load], size: int, run: int) -> Iterator[Measurement]:
    for subject, each in loads.items():
        yield Measurement(NAME, rate(size), subject, each.rate, "1/s", run)
    for subject, each in loads.items():
        p99 = each.percentile_ms(0.99)
        yield Measurement(NAME, f"p99 at {size:,} sessions", subject, p99, "ms", run)
    for subject, each in loads.items():
        cost = f"server's time per call at {size:,} sessions"
        yield Measurement(NAME, cost, subject, each.cpu_us, "µs", run)


async def _ask(target: str, worker: int, size: int, *, seconds: float) -> dict[str, Load]:
    random = Random(size)
    async with grpc.aio.insecure_channel(target) as channel:
        health: Any = HealthStub(channel)
        sessions = SessionServiceStub(channel)

        def get() -> Awaitable[Any]:
            name = session_id(random.randrange(size))
            return sessions.GetSession(pb.GetSessionRequest(session_id=name))

        page = pb.ListSessionsRequest(page_size=PAGE)
        calls: dict[str, Call] = {
            REFERENCE: lambda: health.Check(HealthCheckRequest()),
            GET: get,
            LIST: lambda: sessions.ListSessions(page),
        }
        return await load.in_turn(calls, seconds=seconds, server=worker)


def questions(size: int) -> list[Question]:
    """Return every order, and every filter in the default order."""
    middle = Timestamp(seconds=START // 1000 + size // 2)
    recent = TimeRange(start_time=middle)
    return [
        Question("newest first"),
        Question("by last_event_at", order_by="last_event_at desc"),
        Question("by ended_at", order_by="ended_at desc"),
        Question("one app", SessionFilter(sdk_app_ids=[SDK_APP_ID])),
        Question("a state", SessionFilter(states=[SessionState.SESSION_STATE_QUEUED])),
        Question("two states", SessionFilter(states=list(_STATES))),
        Question("an agent", SessionFilter(agent_ids=["agent7@desk.example"])),
        Question("a user", SessionFilter(client_user_ids=[WHALE])),
        Question("a channel (29 %)", SessionFilter(channel_types=["Web (H5)"])),
        Question("a channel (1 %)", SessionFilter(channel_types=["WhatsApp"])),
        Question("an end reason", SessionFilter(end_reasons=[EndReason.END_REASON_USER])),
        Question("a reason nobody had", SessionFilter(end_reasons=[_NOBODYS])),
        Question("begun", SessionFilter(begun=recent)),
        Question("ended", SessionFilter(ended=recent)),
        Question("active", SessionFilter(active=recent)),
    ]


_NOBODYS = EndReason.END_REASON_AGENT_TIMEOUT  # a page of it skips 10,000 sessions
_STATES = (SessionState.SESSION_STATE_CHATBOT, SessionState.SESSION_STATE_ENDED)

GOALS = (
    *GOALS,
    *(
        Goal(what=page_time(each.name), subject=DEEP, bound=1.15, at_most=True, of=FIRST)
        for each in questions(SIZES[-1])
    ),
)


def _pages(target: str, size: int, run: int, *, quick: bool) -> Iterator[Measurement]:
    times = asyncio.run(_time_pages(target, size, times=5 if quick else 15))
    for question, both in times.items():
        for subject, taken in zip((FIRST, DEEP), both, strict=True):
            yield Measurement(NAME, page_time(question), subject, taken, "ms", run)


async def _time_pages(target: str, size: int, *, times: int) -> dict[str, list[float]]:
    found = {}
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        stub = SessionServiceStub(channel)
        for question in questions(size):
            first = _request(question)
            deep = _request(question, page_token=await _token(stub, question, size))
            calls = [partial(stub.ListSessions, first), partial(stub.ListSessions, deep)]
            found[question.name] = await load.medians_ms(calls, times=times)
    return found


_tokens: dict[tuple[str, int], str] = {}  # still valid: the view does not change


async def _token(stub: Any, question: Question, size: int) -> str:
    key = (question.name, size)
    if key not in _tokens:
        _tokens[key] = await _walk(stub, question)
    return _tokens[key]


async def _walk(stub: Any, question: Question) -> str:
    """Read pages to the end, or up to the limit. Return a token near the end."""
    tokens = [""]
    while len(tokens) < MOST_PAGES:
        request = _request(question, page_size=LONGEST_PAGE, page_token=tokens[-1])
        page = await stub.ListSessions(request)
        if not (page.next_page_token and page.sessions):
            break
        tokens.append(page.next_page_token)
    return tokens[int(DEPTH * len(tokens))]


def _request(question: Question, **more: Any) -> pb.ListSessionsRequest:
    asked: dict[str, Any] = {"filter": question.filter, "order_by": question.order_by}
    asked["page_size"] = PAGE
    return pb.ListSessionsRequest(**(asked | more))


def _etcd(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    if not etcd.INSTALLED:
        yield NotMeasured(NAME, "etcd", etcd.WHY_NOT)
        return
    keys = SIZES[0] if not quick else QUICK_SIZES[0]
    with etcd.running() as (target, pid):
        loads = asyncio.run(_ask_etcd(target, pid, keys, seconds=0.3 if quick else 1.0))
    yield from _measurements(loads, keys, run)


async def _ask_etcd(target: str, pid: int, keys: int, *, seconds: float) -> dict[str, Load]:
    random = Random(keys)
    async with etcd.connected(target) as client:
        await client.fill([bytes(SESSION_BYTES)] * keys)
        calls: dict[str, Call] = {
            ETCD_GET: lambda: client.range(random.randrange(keys)),
            ETCD_LIST: lambda: client.range(random.randrange(keys - PAGE), PAGE),
        }
        return await load.in_turn(calls, seconds=seconds, server=pid)
