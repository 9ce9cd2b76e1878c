"""Settings from the environment, and the messages for wrong ones."""

import os
import pickle
import re
import time
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callback.decoder import SAMPLE_SDK_APP_ID
from command.address import Address
from command.settings import Settings, TrialSettings
from command.settings_errors import SettingsError
from command.settings_warnings import CLIENT_SETTINGS, warnings_of
from command.tokens import valid_tokens
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.options import check_callback_path
from journal.memory import MemoryJournal
from service.certificates import CertificateFiles
from tests.support.certificates import Authority

SECRET = "hush-hush-4711"


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Sets variables in an environment that has no others of ours, and no `.env`."""
    for name in [name for name in os.environ if name.startswith("DESK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def problems(**variables):
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    return raised.value.problems


def test_nothing_but_the_app_needs_to_be_set(environment, tmp_path):
    environment(DESK_SDK_APP_IDS="1600012345")
    settings = Settings.load()
    assert settings.sdk_app_ids == (1600012345,)
    assert valid_tokens(settings.callback_tokens, 0.0) == {}
    assert settings.http_listen == Address("127.0.0.1", 8080)
    assert settings.grpc_listen == Address("127.0.0.1", 50051)
    assert settings.callback_path == "/"
    assert settings.data_dir == tmp_path / "data"
    assert settings.journal == "sqlite"
    assert settings.rpc_workers == 1
    assert settings.http_connections_per_address is None
    assert warnings_of(settings, gateway=False) == []


def test_without_an_app_there_is_one_clear_line(environment):
    environment()
    assert problems() == ["DESK_SDK_APP_IDS must be set"]


def test_an_empty_value_counts_as_not_set(environment):
    environment(DESK_SDK_APP_IDS="", DESK_RPC_WORKERS="", DESK_HTTP_LISTEN="")
    assert problems() == ["DESK_SDK_APP_IDS must be set"]


def test_a_trial_takes_the_sample_app_and_knows_it(environment):
    environment()
    settings = TrialSettings.load()
    assert settings.sdk_app_ids == (SAMPLE_SDK_APP_ID,)
    assert settings.is_trial
    environment(DESK_SDK_APP_IDS="7")
    assert not TrialSettings.load().is_trial


def test_app_ids_may_have_spaces_and_come_sorted_and_once(environment):
    environment(DESK_SDK_APP_IDS=" 3, 1,2 ,1")
    assert Settings.load().sdk_app_ids == (1, 2, 3)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("DESK_SDK_APP_IDS", "x", "DESK_SDK_APP_IDS must be a whole number from 1 to"),
        ("DESK_SDK_APP_IDS", "1,", "DESK_SDK_APP_IDS has an empty entry"),
        ("DESK_SDK_APP_IDS", "0", "DESK_SDK_APP_IDS must be a whole number"),
        ("DESK_SDK_APP_IDS", "-1", "DESK_SDK_APP_IDS must be a whole number"),
        ("DESK_SDK_APP_IDS", "9223372036854775808", "DESK_SDK_APP_IDS must be a whole number"),
        ("DESK_SDK_APP_IDS", "١", "DESK_SDK_APP_IDS must be a whole number"),
        ("DESK_RPC_WORKERS", "0", "DESK_RPC_WORKERS must be a whole number from 1 to 64, not '0'"),
        ("DESK_RPC_WORKERS", "65", "DESK_RPC_WORKERS must be a whole number from 1 to 64"),
        ("DESK_RPC_WORKERS", "two", "DESK_RPC_WORKERS must be a whole number from 1 to 64"),
        ("DESK_HTTP_LISTEN", "8080", "DESK_HTTP_LISTEN must be host:port"),
        ("DESK_HTTP_LISTEN", ":8080", "DESK_HTTP_LISTEN must be host:port"),
        ("DESK_HTTP_LISTEN", "::1:8080", "DESK_HTTP_LISTEN must be host:port"),
        ("DESK_HTTP_LISTEN", "localhost:65536", "DESK_HTTP_LISTEN must be host:port"),
        ("DESK_HTTP_LISTEN", "http://localhost:80", "DESK_HTTP_LISTEN must be host:port"),
        ("DESK_GRPC_LISTEN", "localhost", "DESK_GRPC_LISTEN must be host:port"),
        ("DESK_GRPC_LISTEN", "0.0.0.0:50051", "DESK_GRPC_LISTEN 0.0.0.0:50051 leaves this machine"),
        ("DESK_GRPC_LISTEN", "[::]:50051", "DESK_GRPC_LISTEN [::]:50051 leaves this machine"),
        ("DESK_GRPC_LISTEN", "desk.example:1", "DESK_GRPC_LISTEN desk.example:1 leaves this"),
        ("DESK_GRPC_INSECURE", "maybe", "DESK_GRPC_INSECURE must be true or false"),
        ("DESK_HTTP_CONNECTIONS_PER_ADDRESS", "-1", "DESK_HTTP_CONNECTIONS_PER_ADDRESS must be a"),
        ("DESK_HTTP_CONNECTIONS_PER_ADDRESS", "all", "DESK_HTTP_CONNECTIONS_PER_ADDRESS must be"),
        ("DESK_CALLBACK_PATH", "desk", "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/a?b", "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/a b", "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/a//b", "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/a%20b", "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/" + "a" * 2000, "DESK_CALLBACK_PATH must be a URL path"),
        ("DESK_CALLBACK_PATH", "/readyz", "DESK_CALLBACK_PATH /readyz is the path where"),
        ("DESK_DATA_DIR", "/etc/passwd", "DESK_DATA_DIR '/etc/passwd' is not a directory"),
        ("DESK_JOURNAL", "mysql", "DESK_JOURNAL must be sqlite or nats://host:port, not 'mysql'"),
        ("DESK_JOURNAL", "nats://", "DESK_JOURNAL must be nats://host:port, with commas"),
        ("DESK_JOURNAL", "nats://a:1,b", "DESK_JOURNAL must be nats://host:port, with commas"),
        ("DESK_JOURNAL", f"nats://u:{SECRET}@a:1", "DESK_JOURNAL must not have a password: use"),
        ("DESK_NATS_STREAM", "a.b", "DESK_NATS_STREAM must be 1 to 32 letters, digits, _ or -"),
        ("DESK_NATS_REPLICAS", "6", "DESK_NATS_REPLICAS must be a whole number from 1 to 5"),
        ("DESK_NATS_MAX_BYTES", "10G", "DESK_NATS_MAX_BYTES must be a whole number from 1048576"),
        ("DESK_NATS_USER", "desk", "DESK_NATS_USER needs DESK_NATS_PASSWORD_FILE as well"),
        ("DESK_NATS_CREDS", "/no/such", "DESK_NATS_CREDS '/no/such': No such file"),
        ("DESK_NATS_NKEY", "/", "DESK_NATS_NKEY '/': Is a directory"),
        ("DESK_NATS_TLS_CERT", __file__, "DESK_NATS_TLS_CERT needs DESK_NATS_TLS_KEY as well"),
        ("DESK_LOG_LEVEL", "loud", "DESK_LOG_LEVEL must be 'debug', 'info', 'warning' or 'error'"),
        ("DESK_LOG_FORMAT", "xml", "DESK_LOG_FORMAT must be 'auto', 'json' or 'console'"),
        ("DESK_CALLBACK_TOKENS", SECRET, "DESK_CALLBACK_TOKENS entry 1 is not of the form"),
        ("DESK_CALLBACK_TOKENS", f"1=a,x={SECRET}", "DESK_CALLBACK_TOKENS entry 2 is not of"),
        ("DESK_CALLBACK_TOKENS", f"1={SECRET};until=x", "DESK_CALLBACK_TOKENS entry 1 has no day"),
        (
            "DESK_CALLBACK_TOKENS",
            "1=;until=2026-12-31",
            "DESK_CALLBACK_TOKENS entry 1 has no token",
        ),
        ("DESK_CALLBACK_TOKENS", f"1={SECRET},1=", "DESK_CALLBACK_TOKENS entry 2 is not of"),
        (
            "DESK_CALLBACK_TOKENS",
            f"2={SECRET}",
            "DESK_CALLBACK_TOKENS has a token for app 2, which",
        ),
        ("DESK_CALLBACK_TOKENS_FILE", "/no/such", "DESK_CALLBACK_TOKENS_FILE /no/such: No such"),
        ("DESK_CALLBACK_TOKENS_FILE", "/", "DESK_CALLBACK_TOKENS_FILE /: Is a directory"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(environment, variable, value, line):
    environment(**{"DESK_SDK_APP_IDS": "1", variable: value})
    (found,) = problems()
    assert found.startswith(line)
    assert "\n" not in found
    assert len(found) < 200
    assert SECRET not in found


@hypothesis.settings(deadline=None)
@given(path=st.text("/ab.%{}?# ~:", max_size=8) | st.text(max_size=8))
def test_a_callback_path_that_is_accepted_can_be_served(path):
    try:
        check_callback_path(path)
    except ValueError:
        return
    create_app(MemoryJournal(), Authenticator(frozenset({1}), {}), path=path)


def test_all_problems_come_together(environment):
    environment(
        DESK_RPC_WORKERS="0",
        DESK_HTTP_LISTEN="nowhere",
        DESK_GRPC_LISTEN="0.0.0.0:1",
        DESK_CALLBACK_TOKENS=SECRET,
    )
    named = [line.split()[0] for line in problems()]
    assert named == [
        "DESK_SDK_APP_IDS",
        "DESK_CALLBACK_TOKENS",
        "DESK_HTTP_LISTEN",
        "DESK_GRPC_LISTEN",
        "DESK_RPC_WORKERS",
    ]


def test_nats_has_several_servers_and_takes_one_identity(environment, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    environment(
        DESK_SDK_APP_IDS="1",
        DESK_JOURNAL="nats://a:4222, nats://b:4223,[::1]:4224",
        DESK_NATS_USER="desk",
        DESK_NATS_PASSWORD_FILE=str(file),
    )
    settings = Settings.load()
    assert settings.nats_servers == ("nats://a:4222", "nats://b:4223", "nats://[::1]:4224")
    environment(
        DESK_SDK_APP_IDS="1",
        DESK_NATS_USER="desk",
        DESK_NATS_PASSWORD_FILE=str(file),
        DESK_NATS_NKEY=str(file),
    )
    assert "DESK_NATS_USER is set and so is DESK_NATS_NKEY; set one of them" in problems()


def test_a_long_value_is_shown_in_part(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_JOURNAL="x" * 5_000)
    assert len(problems()[0]) < 200


def test_an_app_may_have_several_tokens_and_a_token_an_equals_sign(environment):
    environment(DESK_SDK_APP_IDS="1,2", DESK_CALLBACK_TOKENS="1=old, 1=new ,2=a=b")
    assert valid_tokens(Settings.load().callback_tokens, 0.0) == {1: ("old", "new"), 2: ("a=b",)}


def test_tokens_are_read_from_a_file_line_by_line(environment, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"1={SECRET}\n1=new,2=other\n\n")
    environment(DESK_SDK_APP_IDS="1,2", DESK_CALLBACK_TOKENS_FILE=str(file))
    assert valid_tokens(Settings.load().callback_tokens, 0.0) == {1: (SECRET, "new"), 2: ("other",)}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff" * 10, " is not UTF-8"),
        (b"1=" + b"x" * 70_000, " is larger than 65536 bytes"),
        (SECRET.encode(), " entry 1 is not of the form appid=token"),
    ],
)
def test_a_file_that_is_no_list_of_tokens_is_refused_by_its_name(environment, content, what):
    Path("tokens").write_bytes(content)
    environment(DESK_SDK_APP_IDS="1", DESK_CALLBACK_TOKENS_FILE="tokens")
    assert problems() == [f"DESK_CALLBACK_TOKENS_FILE tokens{what}"]


def test_a_token_of_an_app_that_is_not_configured_is_found_in_a_file_too(environment):
    Path("tokens").write_text(f"2={SECRET}")
    environment(DESK_SDK_APP_IDS="1", DESK_CALLBACK_TOKENS_FILE="tokens")
    assert problems() == [
        "DESK_CALLBACK_TOKENS_FILE has a token for app 2, which is not configured"
    ]


def test_an_env_file_that_is_no_text_is_named(environment):
    Path(".env").write_bytes(b"DESK_SDK_APP_IDS=\xff")
    environment()
    assert problems() == [".env is not UTF-8"]


def test_an_env_file_that_cannot_be_read_is_named(environment):
    Path(".env").symlink_to("/proc/self/mem")  # a file that nobody can read from its start
    environment()
    assert problems() == [".env cannot be read: Input/output error"]


def test_tokens_come_from_one_place(environment, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("1=a")
    environment(
        DESK_SDK_APP_IDS="1", DESK_CALLBACK_TOKENS="1=a", DESK_CALLBACK_TOKENS_FILE=str(file)
    )
    assert problems() == [
        "DESK_CALLBACK_TOKENS is set and so is DESK_CALLBACK_TOKENS_FILE; set one of them"
    ]


def test_settings_never_show_a_token(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_CALLBACK_TOKENS=f"1={SECRET}")
    settings = Settings.load()
    assert valid_tokens(settings.callback_tokens, 0.0) == {1: (SECRET,)}
    assert SECRET not in repr(settings) + str(settings) + str(warnings_of(settings))
    assert SECRET not in settings.model_dump_json()


def test_settings_cannot_be_changed(environment):
    environment(DESK_SDK_APP_IDS="1")
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().rpc_workers = 2


def test_settings_reach_another_process_as_they_are(environment, monkeypatch):
    environment(DESK_SDK_APP_IDS="1", DESK_CALLBACK_TOKENS=f"1={SECRET}", DESK_RPC_WORKERS="3")
    settings = Settings.load()
    pickled = pickle.dumps(settings)
    monkeypatch.setenv("DESK_RPC_WORKERS", "4")
    assert pickle.loads(pickled) == settings
    assert pickle.loads(pickled).rpc_workers == 3


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "0.0.0.0:8080"])
def test_an_app_without_a_token_is_warned_of_wherever_the_gateway_listens(environment, listen):
    environment(DESK_SDK_APP_IDS="1,2", DESK_CALLBACK_TOKENS="1=a", DESK_HTTP_LISTEN=listen)
    (warning,) = warnings_of(Settings.load())
    assert warning.startswith("DESK_CALLBACK_TOKENS has no token for app 2: whoever reaches")
    assert warnings_of(Settings.load(), gateway=False) == []
    environment(DESK_ALLOW_UNSIGNED="true")
    assert warnings_of(Settings.load()) == []


def test_clients_without_tls_beyond_loopback_are_warned_of(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_CLIENTS_FILE="clients.toml")
    Path("clients.toml").write_text("")
    assert warnings_of(Settings.load(), gateway=False) == []
    environment(DESK_GRPC_LISTEN="0.0.0.0:1", DESK_GRPC_INSECURE="true")
    (warning,) = warnings_of(Settings.load(), gateway=False)
    assert warning.endswith("only keys from loopback are taken")


def test_a_file_that_lets_others_in_and_that_all_can_write_is_warned_of(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_CLIENTS_FILE="clients.toml")
    Path("clients.toml").touch(mode=0o644)
    assert warnings_of(Settings.load(), gateway=False) == []
    Path("clients.toml").chmod(0o666)
    assert warnings_of(Settings.load(), gateway=False) == [
        "DESK_CLIENTS_FILE can be written by every user of this machine"
    ]


def test_a_clients_file_that_cannot_be_used_is_one_line(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_CLIENTS_FILE="clients.toml")
    assert problems() == [
        "DESK_CLIENTS_FILE cannot be used: clients.toml: No such file or directory"
    ]


def test_a_trial_needs_no_token(environment):
    environment()
    assert warnings_of(TrialSettings.load()) == []


def test_a_token_may_have_a_last_day(environment):
    environment(
        DESK_SDK_APP_IDS="1,2",
        DESK_CALLBACK_TOKENS="1=old ; UNTIL = 2026-12-31,1=n;ew,2=x;until=2020-01-01",
    )
    settings = Settings.load()
    end = 1798761600  # 2027-01-01T00:00:00Z
    tokens = settings.callback_tokens
    assert valid_tokens(tokens, end - 1) == {1: ("old", "n;ew"), 2: ()}
    assert valid_tokens(tokens, end) == {1: ("n;ew",), 2: ()}


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("DESK_RPC_WORKER", "DESK_RPC_WORKER is not a setting; did you mean DESK_RPC_WORKERS?"),
        ("DESK_XYZZY", "DESK_XYZZY is not a setting"),
    ],
)
def test_an_unknown_variable_is_warned_of_with_the_closest_one(environment, variable, line):
    environment(DESK_SDK_APP_IDS="1", DESK_TARGET="localhost:1", **{variable: "3"})
    assert warnings_of(Settings.load(), gateway=False) == [line]


def test_the_environment_wins_over_the_env_file(environment, tmp_path):
    Path(".env").write_text("DESK_SDK_APP_IDS=1\nDESK_RPC_WORKERS=2\nDESK_RPC_WORKER=2\n")
    environment(DESK_RPC_WORKERS="3")
    settings = Settings.load()
    assert (settings.sdk_app_ids, settings.rpc_workers) == ((1,), 3)
    assert len(warnings_of(settings, gateway=False)) == 1


def test_grpc_may_leave_the_machine_when_the_network_is_trusted(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_GRPC_LISTEN="[::]:50051", DESK_GRPC_INSECURE="true")
    assert Settings.load().grpc_listen == Address("::", 50051)


def test_an_empty_address_of_the_metrics_means_that_there_is_no_page(environment):
    environment(DESK_SDK_APP_IDS="1")
    assert Settings.load().metrics_listen == Address("127.0.0.1", 9464)
    Path(".env").write_text("DESK_METRICS_LISTEN=\n")
    assert Settings.load().metrics_listen is None
    environment(DESK_METRICS_LISTEN="127.0.0.1:9464")
    assert Settings.load().metrics_listen == Address("127.0.0.1", 9464)
    environment(DESK_METRICS_LISTEN="")
    assert Settings.load().metrics_listen is None


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


def test_grpc_may_leave_the_machine_with_tls_and_certificates_of_clients(environment, authority):
    server = authority.issue("server")
    environment(
        DESK_SDK_APP_IDS="1",
        DESK_GRPC_LISTEN="[::]:50051",
        DESK_GRPC_TLS_CERT=str(server.chain),
        DESK_GRPC_TLS_KEY=str(server.key),
    )
    assert problems()[0].startswith("DESK_GRPC_LISTEN [::]:50051 leaves this machine and anybody")
    environment(DESK_GRPC_CLIENT_CA=str(authority.file))
    files = Settings.load().certificate_files()
    assert files == (server.chain, server.key, authority.file)


@pytest.mark.parametrize(
    ("days", "warned"), [(1, True), (13, True), (15, False), (40 * 365, False)]
)
def test_a_certificate_that_ends_soon_is_warned_of(environment, authority, days, warned):
    server = authority.issue(f"days-{days}", days=days)
    ends_at = CertificateFiles(server.chain, server.key).read().ends_at
    assert abs(ends_at - time.time() - days * 86_400) < 3_600
    environment(
        DESK_SDK_APP_IDS="1",
        DESK_GRPC_TLS_CERT=str(server.chain),
        DESK_GRPC_TLS_KEY=str(server.key),
    )
    warnings = warnings_of(Settings.load(), gateway=False)
    assert [line.startswith("DESK_GRPC_TLS_CERT ends at ") for line in warnings] == [True] * warned


def test_certificates_that_cannot_be_used_are_one_line_each(environment, authority, tmp_path):
    environment(DESK_SDK_APP_IDS="1")
    server, other = authority.issue("one"), authority.issue("two")
    text = tmp_path / "text"
    text.write_text("none")
    for chain, key, client_ca, line in (
        (server.chain, "", "", "DESK_GRPC_TLS_CERT needs DESK_GRPC_TLS_KEY as well"),
        ("", server.key, "", "DESK_GRPC_TLS_KEY needs DESK_GRPC_TLS_CERT as well"),
        ("", "", text, "DESK_GRPC_CLIENT_CA needs DESK_GRPC_TLS_CERT and DESK_GRPC_TLS_KEY"),
        (server.chain, other.key, "", f"the key {other.key} does not match {server.chain}"),
        (text, server.key, "", f"{text} and {server.key} are no certificate and key in PEM"),
        (server.chain, "/no/such", "", "/no/such: No such file or directory"),
        (server.chain, server.key, text, f"{text} has no certificates in PEM"),
    ):
        environment(
            DESK_GRPC_TLS_CERT=str(chain),
            DESK_GRPC_TLS_KEY=str(key),
            DESK_GRPC_CLIENT_CA=str(client_ca),
        )
        (found,) = problems()
        assert line in found


def test_the_retention_is_a_number_of_days_and_a_time_of_day(environment):
    environment(DESK_SDK_APP_IDS="1", DESK_RETENTION="400d", DESK_RETENTION_AT="23:59")
    settings = Settings.load()
    assert settings.retention == timedelta(days=400)
    assert settings.retention_at == "23:59"


@pytest.mark.parametrize("value", ["400", "0d", "-1d", "1h", "99999d", "d"])
def test_another_retention_is_refused(environment, value):
    environment(DESK_SDK_APP_IDS="1", DESK_RETENTION=value)
    (line,) = problems()
    assert line.startswith("DESK_RETENTION must be")


@pytest.mark.parametrize("value", ["24:00", "3:00", "03:60", "03", "noon"])
def test_another_time_of_day_is_refused(environment, value):
    environment(DESK_SDK_APP_IDS="1", DESK_RETENTION_AT=value)
    (line,) = problems()
    assert line.startswith("DESK_RETENTION_AT must be a time of day")


def test_the_example_documents_every_variable_with_its_default(environment, tmp_path):
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    given = dict(re.findall(r"^(?:# )?(DESK_[A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert {name.removeprefix("DESK_").lower() for name in given} == {
        *Settings.model_fields,
        *CLIENT_SETTINGS,
    }
    environment(DESK_SDK_APP_IDS="1600012345")
    defaults = Settings.load()
    for name in (
        *map(str.upper, CLIENT_SETTINGS),
        *("CALLBACK_TOKENS", "CALLBACK_TOKENS_FILE"),
        *("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_CLIENT_CA", "CLIENTS_FILE"),
        *("NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_PASSWORD_FILE"),
        *("NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY"),
        *("RETENTION", "CONSOLE_PASSWORD_FILE", "CONSOLE_USER_HEADER"),
    ):
        del given[f"DESK_{name}"]
    environment(**given)
    assert Settings.load() == defaults


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:1", Address("127.0.0.1", 1), True),
        ("127.9.9.9:1", Address("127.9.9.9", 1), True),
        ("[::1]:50051", Address("::1", 50051), True),
        ("LOCALHOST:0", Address("LOCALHOST", 0), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
        ("desk.example:80", Address("desk.example", 80), False),
    ],
)
def test_an_address_is_read_written_and_placed(text, address, loopback):
    assert Address.parse(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback
