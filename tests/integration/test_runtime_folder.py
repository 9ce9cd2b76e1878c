"""The runtime folder of a supervisor, also after it was killed."""

import tempfile

from command.processes import silent_of_service
from command.runtime import runtime_folder, write_silent


def test_a_folder_is_deleted_by_its_supervisor_or_else_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    somebody_elses = tmp_path / "desk-top"
    somebody_elses.mkdir()
    with runtime_folder() as alive:
        (alive / "follower.sock").touch()
        killed = tmp_path / "desk-killed"
        killed.mkdir()
        for name in ("supervisor.lock", "gateway.sock", "silent"):
            (killed / name).touch()
        with runtime_folder() as folder:
            assert sorted(tmp_path.iterdir()) == sorted([alive, folder, somebody_elses])
            assert (alive / "follower.sock").exists()
    assert list(tmp_path.iterdir()) == [somebody_elses]


def test_health_does_not_depend_on_the_gateway_nor_on_what_publishes_snapshots(tmp_path):
    assert silent_of_service(tmp_path) == []
    write_silent(tmp_path, {"gateway", "follower", "rpc-2", "snapshots"})
    assert silent_of_service(tmp_path) == ["follower", "rpc-2"]
