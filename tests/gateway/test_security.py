"""What a provider's address may be, and where its secrets never are."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import traceback
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway.addresses import Refused, allowed, check_url, guarded
from herd.gateway.provider import Chunk, UpstreamError
from herd.gateway.providers import build
from herd.gateway.remote import OpenAI
from herd.gateway.route import ProviderSpec
from herd.gateway.secrets import secret
from herd.protocol import Event

from .test_faults import BOUNDS, CLASSES, PATIENCE, call, events_of, flat
from .upstream import running
from .upstream_faults import FAULTS
from .upstream_replies import MODELS

PUBLIC = """8.8.8.8 1.1.1.1 172.15.255.255 172.32.0.1 11.0.0.1 100.63.255.255 100.128.0.1 169.253.0.1 223.255.255.254
    2606:4700:4700::1111 2a00:1450:4001:81b::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8""".split()
PRIVATE = """127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255
    ::1 fc00::1 fdff::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:7f00:1 64:ff9b::127.0.0.1 64:ff9b::a00:1""".split()
NEVER = """169.254.169.254 169.254.0.1 0.0.0.0 0.1.2.3 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 192.0.0.1
    192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 192.88.99.1 :: ::2 ::127.0.0.1 ::8.8.8.8 fe80::1 fe80::1%eth0 fec0::1
    ff02::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 2001::1 2001:0:808:808::1 3fff::1 100::1 64:ff9b:1::8.8.8.8
    ::ffff:169.254.169.254 ::ffff:0.0.0.0 ::ffff:0:127.0.0.1 64:ff9b::169.254.169.254 5f00::1 fd00:ec2::254%eth0
    """.split()[:-1]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed(address, False) and allowed(address, True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_must_be_asked_for(address: str) -> None:
    assert not allowed(address, False) and allowed(address, True)


@pytest.mark.parametrize("address", NEVER)
def test_special_addresses_are_never_allowed(address: str) -> None:
    assert not allowed(address, False) and not allowed(address, True)


def test_a_socket_is_made_for_its_address_only() -> None:
    for address, private in (("127.0.0.1", False), ("169.254.169.254", True), ("10.0.0.1", False)):
        with pytest.raises(Refused):
            guarded((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)), private)
    guarded((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)), True).close()


@pytest.mark.parametrize(
    ("url", "private", "why"),
    [
        ("http://api.example.com/v1", False, "https"),
        ("ftp://example.com", True, "https"),
        ("file:///etc/passwd", True, "https"),
        ("gopher://127.0.0.1:6379/", True, "https"),
        ("//example.com", True, "https"),
        ("example.com/v1", True, "https"),
        ("https://", True, ""),
        ("https://user:hunter22@example.com/v1", False, "key"),
        ("https://user@example.com", False, "key"),
        ("https://example.com@127.0.0.1/", True, "key"),
        ("https://127.0.0.1\\@example.com/", True, ""),
        ("https://example.com/v1?key=1", False, "path"),
        ("https://example.com/v1#x", False, "path"),
        ("https://example.com:99999/", False, "URL"),
        ("https://[::1", True, "URL"),
        ("https://127.0.0.1/v1", False, "private"),
        ("https://[::1]/v1", False, "private"),
        ("https://[::ffff:127.0.0.1]/v1", False, "private"),
        ("https://169.254.169.254/latest", False, "address"),
        ("http://169.254.169.254/latest", True, "address"),
        ("http://0.0.0.0:8000/v1", True, "address"),
    ],
)
def test_an_address_that_cannot_be_is_refused_when_it_is_read(url: str, private: bool, why: str) -> None:
    with pytest.raises(HerdError) as caught:
        check_url(url, private)
    assert why in str(caught.value) and "hunter22" not in str(caught.value)


def test_good_addresses() -> None:
    assert check_url("https://api.openai.com/v1/", False) == "https://api.openai.com/v1"
    assert check_url("http://10.0.0.5:8000/v1", True) == "http://10.0.0.5:8000/v1"
    assert check_url("http://vllm:8000", True) == "http://vllm:8000"


SPELLINGS = """localhost localhost. 127.1 2130706433 0x7f000001 0x7f.0.0.1 0177.0.0.1 017700000001 127.0.1
    127.0.0.1.""".split()


@pytest.mark.parametrize("host", [*SPELLINGS, "１２７.0.0.1", "127。0。0。1"])
def test_no_spelling_of_this_machine_is_connected_to(host: str) -> None:
    """Refused when it is read, as an address; or when it is connected to, as a name."""

    async def main() -> None:
        async with running() as upstream:
            try:
                tested = OpenAI(ProviderSpec("p", "openai", (f"https://{host}:{upstream.port}",)), {}, BOUNDS)
            except HerdError:
                return  # it was read as the address that it is
            with pytest.raises(UpstreamError) as caught:
                await tested.models()
            assert caught.value.code in ("upstream_address", "upstream_unreachable")
            assert upstream.connections == 0
            await tested.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "::ffff:127.0.0.1", "fe80::1"]
)
def test_a_name_is_judged_by_what_it_resolves_to_when_connected(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a rebinding server does it: good when it is looked at, bad when it is used."""
    answers = ["93.184.215.14"]
    asked: list[str] = []

    async def resolve(self: Any, host: str, port: int, **more: Any) -> list[Any]:
        asked.append(host)
        address = answers.pop() if answers else answer
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        place = (address, port, 0, 0) if ":" in address else (address, port)
        return [(family, socket.SOCK_STREAM, 6, "", place)]

    async def main() -> None:
        async with running() as upstream:
            monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
            await asyncio.get_running_loop().getaddrinfo("rebind.example", 443)  # somebody looked at it
            spec = ProviderSpec("p", "openai", (f"https://rebind.example:{upstream.port}",))
            tested = OpenAI(spec, {}, BOUNDS)
            with pytest.raises(UpstreamError) as caught:
                await tested.models()
            assert caught.value.code == "upstream_address"
            assert upstream.connections == 0 and len(asked) >= 2
            await tested.close()

    asyncio.run(main())


def test_a_caller_chooses_no_address() -> None:
    async def main() -> None:
        async with running() as upstream, running() as other:
            tested = OpenAI(ProviderSpec("p", "openai", (upstream.url,), private=True), {}, BOUNDS)
            with pytest.raises(ValueError):
                await events_of(tested, replace(call("openai", "ok", False), url=other.url))
            for name in (
                f"../../{other.url}",
                f"{other.url}/x",
                "a/../../admin",
                "x?y=1#z",
                "\r\nHost: evil",
            ):
                await events_of(tested, call("openai", name, False))  # a model's name stays in the body
            assert {asked.path for asked in upstream.seen} == {"/v1/chat/completions"}
            assert other.connections == 0
            await tested.close()

    asyncio.run(main())


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running() as upstream, running() as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            tested = OpenAI(ProviderSpec("p", "openai", (upstream.url,), private=True), {}, BOUNDS)
            assert await tested.models() == MODELS
            assert proxy.connections == 0
            await tested.close()

    asyncio.run(main())


def test_secrets_are_read_when_they_are_used(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-first-key\n")
    file.chmod(0o600)

    async def main() -> None:
        async with running() as upstream:
            spec = ProviderSpec("p", "openai", (upstream.url,), key=f"file:{file}", private=True)
            tested = OpenAI(spec, {}, BOUNDS)
            await tested.models()
            file.write_text("sk-second-key\n")
            await tested.models()
            keys = [asked.headers["authorization"] for asked in upstream.seen]
            assert keys == ["Bearer sk-first-key", "Bearer sk-second-key"]
            file.unlink()
            with pytest.raises(UpstreamError) as caught:
                await tested.models()
            assert (caught.value.status, caught.value.code) == (503, "upstream_secret")
            await tested.close()

    asyncio.run(main())


def test_bad_secrets_are_refused(tmp_path: Path) -> None:
    def bad(content: bytes, mode: int = 0o600) -> str:
        file = tmp_path / "bad"
        file.write_bytes(content)
        file.chmod(mode)
        return f"file:{file}"

    os.mkfifo(tmp_path / "pipe")
    cases = [
        ("sk-in-the-open", {}),
        ("env:", {}),
        ("env:MISSING", {}),
        ("env:BLANK", {"BLANK": "  \n"}),
        ("env:LINES", {"LINES": "canary-a\r\nX-Evil: canary-b"}),
        ("env:LONG", {"LONG": "canary" * 10_000}),
        ("env:FOREIGN", {"FOREIGN": "canary-é"}),
        (f"file:{tmp_path}", {}),
        (f"file:{tmp_path / 'pipe'}", {}),
        (f"file:{tmp_path / 'missing'}", {}),
    ]
    for reference, environ in cases:
        with pytest.raises(HerdError) as caught:
            secret(reference, environ)
        assert "canary" not in str(caught.value) and "sk-in-the-open" not in str(caught.value)
    for content, mode in (
        (b"canary-ok", 0o602),
        (b"canary\0", 0o600),
        (b"canary" * 5000, 0o600),
        (b"", 0o600),
    ):
        with pytest.raises(HerdError) as caught:
            secret(bad(content, mode), {})
        assert "canary" not in str(caught.value)
    assert secret(bad(b"  canary-ok\r\n"), {}) == "canary-ok"
    with pytest.raises(HerdError):
        build(ProviderSpec("p", "openai", key="env:MISSING"), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer sk-in-the-open"),
        ("X-API-Key", "sk-in-the-open"),
        ("Host", "elsewhere.example"),
        ("Content-Length", "5"),
        ("X-Team", "a\r\nX-Evil: b"),
        ("X-Team\r\nX-Evil", "b"),
        ("X-Team", "é"),
        ("", "b"),
        ("X-Team", "env:MISSING"),
    ],
)
def test_bad_headers_are_refused(name: str, value: str) -> None:
    with pytest.raises(HerdError) as caught:
        build(ProviderSpec("p", "openai", headers={name: value}), {})
    assert "sk-in-the-open" not in str(caught.value)


CANARY = "canary-0123456789-abcdefghij"
FILED = "canary-file-9876543210-zyxwv"
HEADER = "canary-header-5555555555-mnop"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", CLASSES)
def test_no_secret_is_ever_said(dialect: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The provider echoes the key in errors, events and text; and everything fails in every way, loudly."""
    file = tmp_path / "key"
    file.write_text(FILED)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def one(provider: Any, fault: str, stream: bool, passing: bool) -> None:
        got: list[Event | Chunk] = []
        try:
            async with aclosing(provider.generate(call(dialect, fault, stream, passing))) as answer:
                async for item in answer:
                    got.append(item)
        except UpstreamError as error:
            chain: BaseException | None = error
            while chain is not None:
                said.append(f"{chain!r} {chain} {chain.__dict__}")
                said.extend(f"{value!r}" for value in vars(chain).values())
                chain = chain.__cause__ or chain.__context__
            said.append("".join(traceback.format_exception(error)))
        said.extend(repr(item) for item in got)
        said.extend(item.data.decode() for item in got if isinstance(item, Chunk))
        said.extend(repr(event) for event in flat(got))

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        async with running() as upstream:
            for key in ("env:KEY", f"file:{file}"):
                headers = {"X-Team": "env:TEAM", "X-Plain": "no secret"}
                spec = ProviderSpec("p", dialect, (upstream.url,), key=key, private=True, headers=headers)
                tested = CLASSES[dialect](spec, {"KEY": CANARY, "TEAM": HEADER}, BOUNDS)
                said.extend((repr(tested), repr(tested.client), str(spec)))
                loud = FAULTS.keys() - PATIENCE.keys() - {"endless", "endless_event"}
                for fault in loud if key == "env:KEY" else [name for name in FAULTS if "echo" in name]:
                    for stream, passing in ((False, False), (True, False), (False, True), (True, True)):
                        await one(tested, fault, stream, passing)
                sent = upstream.seen[-1].headers
                assert sent["x-team"] == HEADER and sent["x-plain"] == "no secret"
                await tested.close()
            assert {CANARY, FILED} == {secret_of(asked.headers) for asked in upstream.seen}

    asyncio.run(main())
    said += [record.getMessage() + (record.exc_text or "") for record in caplog.records]
    everything = "\n".join(said)
    assert "wrong key" in everything and "Your key" in everything  # it was echoed
    for canary in (CANARY, FILED, HEADER):
        assert canary not in everything
        assert canary[:14] not in everything, "half of it was"


def secret_of(headers: dict[str, str]) -> str:
    return headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")
