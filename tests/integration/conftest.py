"""What several modules of integration tests share."""

from importlib.util import find_spec

import pytest

import gateway.server


@pytest.fixture(params=["waitress", "granian"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test on each server; `mark.waitress` says why one is not for the other."""
    if request.param == "waitress":
        return
    if find_spec("granian") is None:
        pytest.skip("granian is not installed")
    if marker := request.node.get_closest_marker("waitress"):
        pytest.skip(marker.args[0])
    from gateway.granian import Server

    monkeypatch.setattr("tests.support.gateway.Server", Server)
    # It cannot know that there are no connections, so it always waits that long.
    monkeypatch.setattr(gateway.server, "GRACE", 0.1)
