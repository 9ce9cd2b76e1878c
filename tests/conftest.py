"""Settings of all tests."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.nats import NatsServer, nats_server

# Whoever runs the tests in the background of a script, or by nohup, has them inherit ignored
# signals, and the commands under test from them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# gRPC otherwise runs code of its own in a child between fork and exec, and logs to its stderr.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A machine that is busy with other tests is slow, and no fault of ours. `make test-long` asks for
# more examples than `make test`.
quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("short", **quiet)
settings.register_profile("long", **quiet, max_examples=1_000)
settings.load_profile(os.environ.get("DESK_TEST_PROFILE", "short"))


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server for all tests of a pytest process; each test has a stream of its own."""
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server
