"""TLS of the gRPC port: who gets in, and certificates that change while the worker serves."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from metrics.definitions import CERTIFICATE_NOT_AFTER
from service.certificates import CertificateFiles
from service.rpc.tls import Tls
from storage.changes import FileProblem
from tests.support.certificates import Authority, Pair
from tests.support.rpc import PATIENCE, Worker, service, until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "stranger")


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Pair:
    """Files of the server's certificate that a test may change."""
    issued = authority.issue("server")
    return Pair(
        Path(shutil.copy(issued.chain, tmp_path / "server.pem")),
        Path(shutil.copy(issued.key, tmp_path / "server.key")),
    )


@asynccontextmanager
async def serving(
    server: Pair, credentials: grpc.ChannelCredentials, client_ca: Path | None = None
) -> AsyncIterator[Worker]:
    tls = Tls(CertificateFiles(server.chain, server.key, client_ca), period=0.0)
    async with service(tls=tls, credentials=credentials) as (_, worker):
        yield worker


async def ask(channel: grpc.aio.Channel) -> grpc.StatusCode:
    stub: Any = StatusServiceStub(channel)
    try:
        await stub.GetStatus(GetStatusRequest(), timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await channel.close()
    return grpc.StatusCode.OK


async def test_a_client_that_trusts_the_authority_is_answered_and_no_other(
    authority, stranger, server
):
    async with serving(server, authority.credentials()) as worker:
        assert await ask(worker.connect()) is grpc.StatusCode.OK
        assert await ask(worker.connect(stranger.credentials())) is grpc.StatusCode.UNAVAILABLE
        plain = grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}")
        assert await ask(plain) is grpc.StatusCode.UNAVAILABLE


async def test_with_an_authority_of_clients_only_its_certificates_get_in(
    authority, stranger, server
):
    ours, theirs = authority.issue("client"), stranger.issue("client")
    async with serving(server, authority.credentials(ours), authority.file) as worker:
        assert await ask(worker.connect()) is grpc.StatusCode.OK
        for credentials in (authority.credentials(), authority.credentials(theirs)):
            assert await ask(worker.connect(credentials)) is grpc.StatusCode.UNAVAILABLE


async def test_a_new_certificate_serves_the_next_connections_and_keeps_the_open_ones(
    authority, stranger, server
):
    async with serving(server, authority.credentials()) as worker:
        stream = worker.subscribe()
        await stream.read()
        server.replace(stranger.issue("renewed"))
        assert await ask(worker.connect(stranger.credentials())) is grpc.StatusCode.OK
        assert await ask(worker.connect()) is grpc.StatusCode.UNAVAILABLE
        assert not stream.done()
        stream.cancel()


async def test_a_pair_that_does_not_match_leaves_the_old_one_in_force(authority, stranger, server):
    async with serving(server, authority.credentials()) as worker:
        renewed = stranger.issue("half")
        with capture_logs() as lines:
            shutil.copy(renewed.chain, server.chain)
            assert await ask(worker.connect()) is grpc.StatusCode.OK
            server.key.unlink()
            assert await ask(worker.connect()) is grpc.StatusCode.OK
        problems = [line["problem"] for line in lines if line["log_level"] == "error"]
        assert problems == [
            f"the key {server.key} does not match {server.chain}",
            f"{server.key}: No such file or directory",
        ]
        shutil.copy(renewed.key, server.key)
        assert await ask(worker.connect(stranger.credentials())) is grpc.StatusCode.OK


async def test_no_call_fails_while_certificates_change_under_load(authority, server):
    async with serving(server, authority.credentials()) as worker:
        stop = asyncio.Event()
        codes: list[grpc.StatusCode] = []

        async def call_again_and_again() -> None:
            while not stop.is_set():
                codes.append(await ask(worker.connect()))

        callers = [asyncio.create_task(call_again_and_again()) for _ in range(4)]
        for number in range(5):
            renewed, wanted = authority.issue(f"number-{number}"), len(codes) + 20
            server.replace(renewed)
            await until(lambda wanted=wanted: enough(codes, wanted))
        stop.set()
        await asyncio.gather(*callers)
        assert set(codes) == {grpc.StatusCode.OK}


async def enough(codes: list[grpc.StatusCode], wanted: int) -> bool:
    return len(codes) >= wanted


def self_signed(folder: Path, *options: str) -> Pair:
    pair = Pair(folder / "self-signed.pem", folder / "self-signed.key")
    files = ("-keyout", pair.key, "-out", pair.chain)
    command = ("openssl", "req", "-x509", "-nodes", "-subj", "/CN=x", *files, *options)
    subprocess.run(command, check=True, capture_output=True)
    return pair


@pytest.mark.parametrize("days", [1, 90, 40_000])
def test_the_end_of_a_certificate_is_known(tmp_path, days):
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    began = time.time()
    pair = self_signed(tmp_path, "-days", str(days), *curve)
    ends_at = CertificateFiles(pair.chain, pair.key).read().ends_at
    assert 0 <= ends_at - int(began) - days * 86_400 < 60


@pytest.mark.parametrize("kind", ["P-521", "secp256k1", "ed25519", "rsa-pss", "P-384", "rsa"])
async def test_a_certificate_that_is_accepted_is_one_that_grpc_can_use(
    authority, server, tmp_path, kind
):
    curve = kind in ("P-521", "secp256k1", "P-384")
    key = ("ec", "-pkeyopt", f"ec_paramgen_curve:{kind}") if curve else (kind,)
    renewed = self_signed(tmp_path, "-newkey", *key, "-addext", "subjectAltName=IP:127.0.0.1")
    async with serving(server, authority.credentials()) as worker:
        server.replace(renewed)
        if kind in ("P-384", "rsa"):
            trusting = grpc.ssl_channel_credentials(renewed.chain.read_bytes())
            assert await ask(worker.connect(trusting)) is grpc.StatusCode.OK
        else:
            assert await ask(worker.connect()) is grpc.StatusCode.OK
            with pytest.raises(FileProblem, match="RSA, P-256 or P-384"):
                CertificateFiles(server.chain, server.key).read()


def test_another_label_than_certificate_is_a_problem_in_one_line(server):
    text = server.chain.read_text()
    server.chain.write_text(text.replace(" CERTIFICATE-", " TRUSTED CERTIFICATE-"))
    with pytest.raises(FileProblem, match="BEGIN CERTIFICATE"):
        CertificateFiles(server.chain, server.key).read()


def test_comments_in_any_language_are_allowed_among_authorities(server):
    authorities = server.chain.with_suffix(".ca")
    authorities.write_text(f"# Főtanúsítvány\n{server.chain.read_text()}", encoding="utf-8")
    assert CertificateFiles(server.chain, server.key, authorities).read().client_ca


async def test_the_metrics_tell_when_the_certificate_in_use_ends(authority, server):
    tls = Tls(CertificateFiles(server.chain, server.key), period=0.0)
    async with service(tls=tls, credentials=authority.credentials()):
        (value,) = CERTIFICATE_NOT_AFTER.read().values()
        assert value == tls.ends_at > time.time()
        server.replace(authority.issue("longer", days=60))
        (longer,) = CERTIFICATE_NOT_AFTER.read().values()  # although nobody has connected since
    assert longer > value
