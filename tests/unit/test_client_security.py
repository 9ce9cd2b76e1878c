"""A client's key leaves this machine over TLS only."""

import pytest

from desk.client import Client, read_key, tls_credentials

KEY = "desk_board_0123456789"


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("127.0.0.1:50051", True),
        ("127.9.9.9", True),
        ("localhost:50051", True),
        ("dns:localhost:50051", True),
        ("dns:///localhost:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("[::1]:50051", True),
        ("ipv6:[::1]:50051", True),
        ("unix:/run/desk.sock", True),
        ("10.0.0.7:50051", False),
        ("desk.example:50051", False),
        ("localhost.example:50051", False),
        ("dns:///desk.example:50051", False),
        ("ipv4:127.0.0.1:50051,10.0.0.7:50051", False),
        ("xds:///localhost", False),
        ("[2001:db8::1]:50051", False),
        ("", False),
    ],
)
async def test_a_key_is_sent_over_tls_or_to_this_machine(target, allowed):
    async with Client(target, key=KEY, credentials=tls_credentials()):
        pass
    if allowed:
        async with Client(target, key=KEY):
            pass
    else:
        with pytest.raises(ValueError, match="over TLS only"):
            Client(target, key=KEY)


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel"])
async def test_what_cannot_be_a_key_is_an_error_that_does_not_show_it(key):
    with pytest.raises(ValueError, match="the key has") as raised:
        Client("127.0.0.1:1", key=key)
    assert key not in str(raised.value)


def test_a_key_is_read_from_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert read_key(file) == KEY
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no key"):
        read_key(file)


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(ValueError, match="belong together"):
        tls_credentials(cert=tmp_path / "cert")
