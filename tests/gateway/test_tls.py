"""A provider's certificate must be valid, by the authorities of this machine or of SSL_CERT_FILE."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from herd.gateway.provider import UpstreamError
from herd.gateway.remote import OpenAI
from herd.gateway.route import ProviderSpec

from .test_faults import BOUNDS, STREAM, call, events_of
from .upstream import running
from .upstream_replies import MODELS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody has signed but itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        cert,
    ]
    subprocess.run([*made, *names], check=True, capture_output=True)
    return cert, key


def test_a_certificate_must_be_valid(certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def main() -> None:
        plain = await asyncio.start_server(no_tls, "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        async with running(tls=tls) as upstream, plain:
            for url in (upstream.url, f"https://127.0.0.1:{port}"):
                tested = OpenAI(ProviderSpec("p", "openai", (url,), private=True), {}, BOUNDS)
                with pytest.raises(UpstreamError) as caught:
                    await events_of(tested, call("openai", "ok", STREAM))
                assert caught.value.code == "upstream_tls"
                await tested.close()
            assert upstream.seen == []

    asyncio.run(main())


TRUSTS = """
import asyncio, sys
from herd.gateway.remote import OpenAI
from herd.gateway.route import ProviderSpec
print(asyncio.run(OpenAI(ProviderSpec("p", "openai", (sys.argv[1],), private=True), {}).models()))
"""


def test_an_authority_of_ones_own_is_trusted(certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def main() -> None:
        async with running(tls=tls) as upstream:
            environ = {**os.environ, "SSL_CERT_FILE": str(certificate[0])}
            program = await asyncio.create_subprocess_exec(
                sys.executable, "-c", TRUSTS, upstream.url, env=environ, stdout=subprocess.PIPE
            )
            out, _ = await program.communicate()
            assert out.decode().strip() == str(MODELS)

    asyncio.run(main())
