"""deploy/nginx with a real nginx: callbacks through HTTPS, gRPC through TLS."""

import asyncio
import base64
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest

from desk.client import Client
from desk.v1.admin_service_pb2 import ForgetRequest
from desk.v1.admin_service_pb2_grpc import AdminServiceStub
from desk.v1.session_service_pb2 import CountSessionsRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from gateway import limits
from gateway.answers import Answer
from gateway.limits import BUDGET, MAX_BODY, MAX_HEAD
from journal.spool import KEEP_WITHIN
from service.clients import new_key
from service.rpc import server
from service.rpc.limits import Limits
from tests.support import nginx
from tests.support.clients import Clients
from tests.support.nginx import RunningNginx
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, run, start
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(not nginx.NGINX, reason="there is no nginx"),
]

TOKEN = "xxxxyyyy"
VIEWER = "ann:sees the board"
SLOW_NGINX = {r"proxy_read_timeout .*;": "proxy_read_timeout 60s;"}
"""Edits with which nginx waits for a gateway longer than Desk would, on a machine that is busy."""

BEGIN = {"SessionId": "a-session", "Event": "SessionBegin", "EventTime": 1_725_540_020_000}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    directory = tmp_path_factory.mktemp("desk")
    tokens = directory / "tokens"
    tokens.write_text(f"{SDK_APP_ID}={TOKEN}\n")
    (directory / "passwords").write_text(f"{VIEWER}\n")
    with start(
        "serve",
        data_dir=directory / "data",
        DESK_CALLBACK_TOKENS_FILE=str(tokens),
        DESK_CONSOLE_LISTEN="127.0.0.1:0",
        DESK_CONSOLE_PASSWORD_FILE=str(directory / "passwords"),
        DESK_HTTP_CONNECTIONS_PER_ADDRESS="0",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(desk: RunningDesk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNginx]:
    gateway = "{}:{}".format(*desk.http)
    directory = tmp_path_factory.mktemp("nginx")
    addresses = {"service": desk.target, "console": desk.ready()["console"]}
    with nginx.running(directory, gateway=gateway, **addresses, edits=SLOW_NGINX) as running:
        yield running


def ask_console(proxy: RunningNginx, path: str, **headers: str) -> http.client.HTTPResponse:
    context = proxy.client_context()
    host, port = "127.0.0.1", proxy.console
    connection = http.client.HTTPSConnection(host, port, timeout=DEADLINE, context=context)
    connection.request("GET", path, headers={"Host": "desk.example", **headers})
    return connection.getresponse()


def test_the_console_is_shown_with_tls_to_who_has_a_password(proxy: RunningNginx) -> None:
    password = {"Authorization": f"Basic {base64.b64encode(VIEWER.encode()).decode()}"}

    assert ask_console(proxy, "/sessions.json").status == 401
    assert ask_console(proxy, "/sessions.json", **{"X-Forwarded-User": "ann"}).status == 401
    assert "sessions" in json.load(ask_console(proxy, "/sessions.json", **password))
    live = ask_console(proxy, "/board/live", **password)
    assert live.status == 200
    assert live.readline()  # at once: nginx does not buffer it
    live.close()


def send(
    proxy: RunningNginx,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    source: str = "127.0.0.1",
    own: str = "",
    **headers: str,
) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
    """Send one request through nginx; return status, headers and the JSON that came.

    Args:
        proxy: the nginx.
        method: of the request.
        target: path and query.
        body: of the request.
        source: address to send from.
        own: name of a certificate to show.
        headers: of the request.
    """
    context, made = proxy.client_context(), proxy.certificates
    if own:
        context.load_cert_chain(made.pairs[own].chain, made.pairs[own].key)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", proxy.https, timeout=DEADLINE, context=context, source_address=(source, 0)
    )
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def query(**more: str) -> str:
    given = {"SdkAppid": str(SDK_APP_ID), "CallbackCommand": "Desk.SessionEventNotify", **more}
    return f"/?{urlencode(given)}"


def channel(proxy: RunningNginx, name: str | None) -> grpc.Channel:
    return grpc.secure_channel(f"127.0.0.1:{proxy.grpc}", credentials(proxy, name))


def credentials(proxy: RunningNginx, name: str | None) -> grpc.ChannelCredentials:
    made = proxy.certificates
    return made.authority.credentials(made.pairs[name] if name else None)


def test_a_simulated_contact_centre_is_kept_through_https(
    desk: RunningDesk, proxy: RunningNginx
) -> None:
    simulated = run(
        "simulate",
        f"https://127.0.0.1:{proxy.https}",
        *("--sessions", "100", "--duplicates", "10%", "--shuffle", "20%", "--malformed", "2%"),
        *("--verify", desk.target),
        SSL_CERT_FILE=str(proxy.certificates.authority.file),
        DESK_SIMULATE_TOKEN=TOKEN,
        timeout=200,
    )

    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    assert "no difference" in simulated.stdout


async def test_a_callback_sent_through_https_comes_out_of_a_live_stream_through_tls(
    desk: RunningDesk, proxy: RunningNginx
) -> None:
    target = f"127.0.0.1:{proxy.grpc}"
    async with (
        asyncio.timeout(DEADLINE),
        Client(target, credentials=credentials(proxy, "client")) as client,
        aclosing(client.subscribe(after_revision=0)) as updates,
    ):
        async for update in updates:
            if update.caught_up:
                break
        sent = run(
            *("simulate", f"https://127.0.0.1:{proxy.https}", "--sessions", "1"),
            SSL_CERT_FILE=str(proxy.certificates.authority.file),
            DESK_SIMULATE_TOKEN=TOKEN,
        )
        assert sent.returncode == 0
        async for update in updates:
            if update.records:
                break

    assert update.records[0].revision > 0


@pytest.mark.parametrize("name", [None, "stranger"])
def test_grpc_without_a_certificate_of_the_authority_is_refused(
    proxy: RunningNginx, name: str | None
) -> None:
    with channel(proxy, name) as stranger, pytest.raises(grpc.RpcError) as refused:
        SessionServiceStub(stranger).CountSessions(CountSessionsRequest(), timeout=DEADLINE)

    assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


def test_nobody_erases_through_nginx(desk: RunningDesk, proxy: RunningNginx) -> None:
    request = ForgetRequest(client_user_id="a-user", dry_run=True)
    with grpc.insecure_channel(desk.target) as near, channel(proxy, "client") as far:
        assert list(AdminServiceStub(near).Forget(request, timeout=DEADLINE))[-1].complete
        with pytest.raises(grpc.RpcError) as refused:
            list(AdminServiceStub(far).Forget(request, timeout=DEADLINE))

    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_gateways_own_answers_come_through(proxy: RunningNginx) -> None:
    status, _, answer = send(proxy, "POST", query(), json.dumps(BEGIN).encode())

    assert (status, answer["ErrorCode"]) == (403, 40300)


def test_a_body_as_large_as_the_gateway_takes_comes_through(proxy: RunningNginx) -> None:
    status, _, answer = send(proxy, "POST", query(), b" " * MAX_BODY)

    assert (status, answer["ErrorCode"]) == (403, 40300)  # the gateway has read it


REFUSED_BY_NGINX = [
    pytest.param("POST", query(), b" " * (MAX_BODY + 1), {}, Answer.TOO_LARGE, id="body"),
    pytest.param("POST", "/?" + "x" * 8192, b"", {}, Answer.HEAD_TOO_LARGE, id="target"),
    pytest.param(
        *("POST", "/", b"", {f"x-{number}": "x" * 1000 for number in range(17)}),
        Answer.HEAD_TOO_LARGE,
        id="headers",
    ),
    pytest.param("POST", "/", b"", {"Host": "a b"}, Answer.BAD_REQUEST, id="host"),
    pytest.param("GET", "/readyz", b"", {}, Answer.NOT_FOUND, id="probe"),
    pytest.param("GET", "/.desk/503", b"", {}, Answer.NOT_FOUND, id="internal"),
]


@pytest.mark.parametrize(("method", "target", "body", "headers", "expected"), REFUSED_BY_NGINX)
def test_what_nginx_refuses_is_answered_as_the_gateway_would(
    proxy: RunningNginx,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str],
    expected: Answer,
) -> None:
    status, _, answer = send(proxy, method, target, body, **headers)

    assert status == expected.status
    assert answer == json.loads(expected.body)


def test_with_a_list_of_addresses_no_other_reaches_the_gateway(
    desk: RunningDesk, tmp_path: Path
) -> None:
    listed = SLOW_NGINX | {r"#allow .*": "allow 127.0.0.2;", r"#deny .*": "deny all;"}
    gateway = "{}:{}".format(*desk.http)
    with nginx.running(tmp_path, gateway=gateway, service=desk.target, edits=listed) as proxy:
        refused = send(proxy, "POST", query(), b"{}")
        let_in = send(proxy, "GET", query(), source="127.0.0.2")

    assert (refused[0], refused[2]) == (403, json.loads(Answer.FORBIDDEN.body))
    assert let_in[0] == 405  # which is the gateway's answer


def test_with_an_authority_of_desk_nobody_without_its_certificate_reaches_the_gateway(
    desk: RunningDesk, tmp_path: Path
) -> None:
    mutual = SLOW_NGINX | {
        r"#ssl_client_certificate .*": f"ssl_client_certificate {tmp_path}/authority.pem;",
        r"#ssl_verify_client .*": "ssl_verify_client on;",
    }
    gateway = "{}:{}".format(*desk.http)
    with nginx.running(tmp_path, gateway=gateway, service=desk.target, edits=mutual) as proxy:
        without = send(proxy, "GET", query())
        stranger = send(proxy, "GET", query(), own="stranger")
        desks = send(proxy, "GET", query(), own="client")

    assert [without[0], stranger[0], desks[0]] == [400, 400, 405]
    assert without[2] == stranger[2] == json.loads(Answer.BAD_REQUEST.body)


def encrypted_service(made: nginx.Certificates) -> tuple[dict[str, str], dict[str, str]]:
    """Return settings of TLS for the service, and the edits of nginx's files that go with them."""
    pair = made.pairs["server"]
    settings = {"DESK_GRPC_TLS_CERT": str(pair.chain), "DESK_GRPC_TLS_KEY": str(pair.key)}
    trusted = f"grpc_ssl_trusted_certificate {made.authority.file};"
    return settings, {
        r"grpc://": "grpcs://",
        r"#grpc_ssl_trusted_certificate .*": trusted,
        r"#(grpc_ssl_(?:verify|name) .*)": r"\1",
    }


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_key_comes_through_in_clear_from_loopback_and_with_tls_to_the_service(
    tmp_path: Path, encrypted: bool
) -> None:
    clients = Clients(tmp_path)
    (tmp_path / "key").write_text(clients.add("board"))
    (tmp_path / "wrong").write_text(new_key("wrong"))
    made = nginx.Certificates(tmp_path)
    settings, edits = encrypted_service(made) if encrypted else ({}, {})
    settings["DESK_CLIENTS_FILE"] = str(clients.path)
    with (
        start("serve", data_dir=tmp_path / "data", **settings) as desk,
        nginx.running(
            tmp_path,
            gateway="{}:{}".format(*desk.http),
            service=desk.target,
            certificates=made,
            edits=edits,
        ) as proxy,
    ):
        codes = [
            run(
                "status",
                target=f"127.0.0.1:{proxy.grpc}",
                DESK_CLIENT_TLS_CA=str(proxy.certificates.authority.file),
                DESK_CLIENT_TLS_CERT=str(made.pairs["client"].chain),
                DESK_CLIENT_TLS_KEY=str(made.pairs["client"].key),
                DESK_CLIENT_KEY_FILE=str(tmp_path / key),
            ).returncode
            for key in ("key", "wrong")
        ]

    assert codes == [0, 1]


def test_plain_http_is_refused(proxy: RunningNginx) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.https, timeout=DEADLINE)
    connection.request("POST", query(), b"{}")

    assert connection.getresponse().status == 400


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_before_1_2_is_refused(proxy: RunningNginx) -> None:
    context = proxy.client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    with (
        socket.create_connection(("127.0.0.1", proxy.https), timeout=DEADLINE) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_no_signature_is_in_the_logs(proxy: RunningNginx) -> None:
    send(proxy, "POST", query(Sign="not-to-be-logged", RequestTime="1"), b"{}")

    eventually(lambda: '"POST /" 403' in proxy.access_log)
    written = [path.read_text() for path in proxy.directory.glob("*.log")]
    assert not any("not-to-be-logged" in text for text in written)


def test_without_a_gateway_desk_is_told_to_come_again(tmp_path: Path) -> None:
    nobody = "127.0.0.1:1"
    with nginx.running(tmp_path, gateway=nobody, service=nobody) as proxy:
        status, headers, answer = send(proxy, "POST", query(Sign="not-to-be-logged"), b"{}")
        with channel(proxy, "client") as client, pytest.raises(grpc.RpcError) as failed:
            SessionServiceStub(client).CountSessions(CountSessionsRequest(), timeout=DEADLINE)

    assert (status, answer) == (503, json.loads(Answer.NOT_READY.body))
    assert headers["Retry-After"] == "1"
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    eventually(lambda: '"POST /" 503' in proxy.access_log)
    written = [path.read_text() for path in tmp_path.glob("*.log")]
    assert not any("not-to-be-logged" in text for text in written)


def address(listener: socket.socket) -> str:
    return "{}:{}".format(*listener.getsockname())


def test_a_callback_is_sent_again_when_the_kept_connection_was_just_closed(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        nginx.running(
            tmp_path, gateway=address(listener), service=address(listener), edits=SLOW_NGINX
        ) as proxy,
    ):
        statuses = asyncio.run(_two_callbacks(listener, proxy))

    assert statuses == [200, 200]


async def _two_callbacks(listener: socket.socket, proxy: RunningNginx) -> list[int]:
    """Send two callbacks to a server that closes a connection when a second request arrives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(serve, sock=listener):
        return [(await asyncio.to_thread(send, proxy, "POST", query(), b"{}"))[0] for _ in range(2)]


@pytest.mark.parametrize("place", ["machine.conf", "compose.conf"])
def test_nginx_accepts_the_shipped_files(place: str, tmp_path: Path) -> None:
    checked = nginx.check(tmp_path, place=place)

    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def directive(file: str, name: str) -> list[str]:
    """Return the arguments of the one directive of that name in a shipped file."""
    text = (nginx.SHIPPED / file).read_text()
    (found,) = re.findall(rf"^\s*{name}\s+([^;]+);", text, flags=re.MULTILINE)
    return str(found).split()


DESK_WAITS = 2.0
"""Seconds after which Desk gives up a callback."""


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def kilobytes(text: str) -> int:
    return int(text.removesuffix("k")) * 1024


def test_nginx_refuses_what_the_gateway_would_refuse() -> None:
    first = kilobytes(directive("callbacks.conf", "client_header_buffer_size")[0])
    number, size = directive("callbacks.conf", "large_client_header_buffers")
    added_by_nginx = 1024

    assert kilobytes(directive("callbacks.conf", "client_max_body_size")[0]) == MAX_BODY
    assert first + int(number) * kilobytes(size) == MAX_HEAD - added_by_nginx
    share = int(directive("callbacks.conf", "limit_conn")[1])
    assert share == limits.Limits().of_one_address


def test_nginx_gives_up_after_the_gateway_and_not_before() -> None:
    for place in ("machine.conf", "compose.conf"):
        assert BUDGET < seconds(directive(place, "proxy_read_timeout")[0]) <= DESK_WAITS
    assert seconds(directive("compose.conf", "resolver_timeout")[0]) <= 2.0


def test_a_callback_has_time_for_another_gateway_when_the_first_does_not_answer() -> None:
    waits = seconds(directive("cluster.conf", "proxy_read_timeout")[0])

    assert waits > BUDGET - KEEP_WITHIN  # a gateway may use its spool
    assert waits < seconds(directive("callbacks.conf", "proxy_next_upstream_timeout")[0])
    assert waits + 0.5 <= DESK_WAITS


def test_nginx_closes_idle_connections_before_gateway_and_service_do() -> None:
    text = (nginx.SHIPPED / "machine.conf").read_text()
    kept = [seconds(value) for value in re.findall(r"keepalive_timeout (\w+);", text)]

    idle = dict(server.OPTIONS)["grpc.max_connection_idle_ms"] / 1000
    assert len(kept) == 2
    assert kept[0] < limits.Limits().idle
    assert kept[1] < idle


def test_nginx_waits_longer_than_a_stream_or_a_waiting_call_is_silent() -> None:
    waits = seconds(directive("grpc.conf", "grpc_read_timeout")[0])
    calls = Limits()
    silence = max(calls.checkpoint_seconds) * calls.streams / calls.checkpoint_streams

    assert waits > max(silence, calls.state_seconds)
    assert directive("grpc.conf", "client_max_body_size") == ["1m"]
    assert dict(server.OPTIONS)["grpc.max_receive_message_length"] == 2**20
