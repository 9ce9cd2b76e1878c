"""The addresses at which a client on this machine finds the processes."""

from pathlib import Path

import pytest

from command.address import Address
from command.endpoints import gateway_address, service_address


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.delenv("DESK_GRPC_LISTEN", raising=False)
    monkeypatch.delenv("DESK_HTTP_LISTEN", raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_a_setting_it_is_where_the_servers_listen_by_default():
    assert service_address() == Address("127.0.0.1", 50051)
    assert gateway_address() == Address("127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("setting", "reached"),
    [
        ("127.0.0.1:15051", "127.0.0.1:15051"),
        ("0.0.0.0:15051", "127.0.0.1:15051"),
        ("[::]:15051", "[::1]:15051"),
        ("desk.example:1", "desk.example:1"),
        ("", "127.0.0.1:50051"),
    ],
)
def test_it_is_the_services_own_address_as_a_neighbour_reaches_it(monkeypatch, setting, reached):
    monkeypatch.setenv("DESK_GRPC_LISTEN", setting)
    assert str(service_address()) == reached
    monkeypatch.delenv("DESK_GRPC_LISTEN")
    Path(".env").write_text(f"desk_grpc_listen={setting}\n")
    assert str(service_address()) == reached


def test_the_environment_wins_over_the_env_file(monkeypatch):
    Path(".env").write_text("DESK_GRPC_LISTEN=127.0.0.1:1\n")
    monkeypatch.setenv("DESK_GRPC_LISTEN", "127.0.0.1:2")
    assert service_address().port == 2


def test_a_wrong_value_is_named(monkeypatch):
    monkeypatch.setenv("DESK_GRPC_LISTEN", "nowhere")
    with pytest.raises(ValueError, match=r"^DESK_GRPC_LISTEN must be host:port"):
        service_address()


def test_an_env_file_that_is_no_text_is_named():
    Path(".env").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"\.env is not UTF-8"):
        service_address()
