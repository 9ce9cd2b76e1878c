"""Log lines of all writers, from processes of their own: logging is global."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.processes import environment

PREPARE = """
import logging, structlog
from command import logs
from command.settings import Settings
logs.configure(Settings.load(), "gateway")
log = structlog.get_logger()
"""


@pytest.fixture
def logged(tmp_path):
    def run(code, **settings):
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + textwrap.dedent(code)],
            env=environment({"DESK_SDK_APP_IDS": "1", **settings}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout == ""
        return done.stderr

    return run


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_json_with_time_level_and_process(logged):
    (record,) = records(logged("log.info('taken', revision=7)"))
    assert record.pop("timestamp").endswith("Z")
    assert record == {"event": "taken", "level": "info", "process": "gateway", "revision": 7}


def test_what_libraries_log_comes_the_same_way(logged):
    (record,) = records(logged("logging.getLogger('waitress').warning('full: %d', 3)"))
    assert (record["event"], record["logger"], record["process"]) == (
        "full: 3",
        "waitress",
        "gateway",
    )


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1)])
def test_the_level_holds_for_all(logged, level, count):
    code = "log.debug('a'); logging.getLogger('grpc').info('b'); log.warning('c')"
    assert len(records(logged(code, DESK_LOG_LEVEL=level))) == count


def test_an_exception_shows_where_and_what_but_no_variables(logged):
    code = """
    def check(token):
        raise KeyError("sign")
    try:
        check("-".join(["hush", "4711"]))  # not in the source, which a traceback may show
    except KeyError:
        log.exception("failed")
    """
    text = logged(code)
    (record,) = records(text)
    assert record["exception"].endswith("KeyError: 'sign'")
    assert "in check" in record["exception"]
    assert "hush-4711" not in text
    assert "hush-4711" not in logged(code, DESK_LOG_FORMAT="console")


def test_a_line_is_bounded(logged):
    code = """
    def dig(n):
        return dig(n - 1) if n else int("x" * 3000)
    log.info("long", text="x" * 100_000)
    log.info("many", apps=list(range(100_000)), tokens={n: 1 for n in range(100_000)})
    try:
        dig(500)
    except ValueError:
        log.exception("deep")
    """
    for line in logged(code).splitlines():
        assert len(line) < 12_000


def test_console_lines_have_no_colours_where_there_is_no_terminal(logged):
    text = logged("log.warning('taken', revision=7)", DESK_LOG_FORMAT="console")
    assert "taken" in text
    assert "revision=7" in text
    assert "\x1b" not in text


def test_what_cannot_be_encoded_does_not_break_the_log(logged):
    (record,) = records(logged(r"log.info('odd', path='a\udc80b', data=b'\xff', more=object())"))
    assert record["event"] == "odd"


def test_whatever_is_printed_to_stderr_comes_and_so_does_what_is_said_last(logged):
    code = """
    import sys, threading, warnings
    print("printed", file=sys.stderr)
    warnings.warn("odd")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    for number in range(2000):
        log.info("many", number=number)
    """
    lines = logged(code).splitlines()
    assert lines[0] == "printed"
    assert any("UserWarning: odd" in line for line in lines)
    assert "ZeroDivisionError: division by zero" in lines
    assert json.loads(lines[-1])["number"] == 1999


def test_a_reader_that_stalls_delays_nothing_and_is_told_what_it_missed(tmp_path):
    code = """
    import sys
    for number in range(20_000):
        log.info("many", text="x" * 1000)
    print("went on", flush=True)
    sys.stdin.readline()
    log.info("last")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE + textwrap.dedent(code)],
        env=environment({"DESK_SDK_APP_IDS": "1"}),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "went on\n"
        seen = records(process.communicate("\n", timeout=60)[1])
    told = [record["number"] for record in seen if record["event"] == "log_records_dropped"]
    assert told
    assert len(seen) - len(told) + sum(told) == 20_001


@pytest.mark.parametrize(
    "package", ["command", "gateway", "journal", "metrics", "service", "storage"]
)
def test_events_are_named_in_one_style(package):
    call = re.compile(r"log\.(?:debug|info|warning|error|exception|critical)\(\s*\"([^\"]*)\"")
    sources = (Path(__file__).parents[2] / package).rglob("*.py")
    named = [name for source in sources for name in call.findall(source.read_text())]
    assert named
    assert [name for name in named if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)] == []


def test_what_grpc_says_of_clients_that_vanish_does_not_fill_the_log(logged):
    text = logged(
        """
        for number in range(1_000):
            try:
                raise RuntimeError(number)
            except RuntimeError:
                logging.getLogger("grpc.anything").exception("failed in %s", "GetSession")
                logging.getLogger("grpc.anything").exception("failed in %s", "GetStatus")
        for number in range(3):
            logging.getLogger("waitress").warning("full")
            log.info("taken")
        """
    )
    events = [record["event"] for record in records(text)]
    assert events == ["failed in GetSession", "failed in GetStatus", *["full", "taken"] * 3]


def test_a_call_that_was_cancelled_before_it_began_is_no_error(logged):
    text = logged(
        """
        import asyncio

        for kind in (asyncio.CancelledError, RuntimeError):
            try:
                raise kind
            except BaseException:
                logging.getLogger("grpc.anything").exception(kind.__name__)
        """
    )
    assert [record["event"] for record in records(text)] == ["RuntimeError"]


def test_an_event_with_a_throttle_comes_once_a_period_for_each_kind(logged):
    text = logged(
        """
        for number in range(1_000):
            for reason in ("full", "closed"):
                log.warning("not_kept", reason=reason, number=number, throttle=reason)
        for number in range(3):
            log.warning("taken")
        """
    )
    seen = [
        (record["event"], record.get("reason"), record.get("suppressed"))
        for record in records(text)
    ]
    assert seen == [
        ("not_kept", "full", 0),
        ("not_kept", "closed", 0),
        *[("taken", None, None)] * 3,
    ]
    assert "throttle" not in text
