"""Providers that speak Anthropic's dialect."""

from collections.abc import Mapping
from typing import Any, ClassVar

from herd.gateway.http import BOUNDS, Bounds
from herd.gateway.provider import Call
from herd.gateway.remote import Codec, Remote
from herd.gateway.route import ProviderSpec
from herd.protocol import Dialect, Event, Request
from herd.protocol import upstream_anthropic as dialect


class Anthropic(Remote):
    codec: ClassVar[Codec] = dialect
    home = "https://api.anthropic.com"
    auth = ("x-api-key", "")
    fixed = {"anthropic-version": "2023-06-01"}
    listing = "/models?limit=1000"
    passes: frozenset[Dialect] = frozenset({"messages"})

    def __init__(self, spec: ProviderSpec, environ: Mapping[str, str], bounds: Bounds = BOUNDS) -> None:
        super().__init__(spec, environ, bounds)
        # Its own clients are told an address without the version; others with it.
        self.urls = tuple(url if url.endswith("/v1") else f"{url}/v1" for url in self.urls)

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return dialect.unsupported(call.request, whole=call.body is not None)

    def path(self, request: Request) -> str:
        return "/messages/count_tokens" if request.count else "/messages"

    def encode(self, call: Call) -> dict[str, Any]:
        return dialect.encode(call.request, call.target.model)

    def decode(self, body: bytes, request: Request) -> tuple[Event, ...]:
        return dialect.decode_count(body) if request.count else super().decode(body, request)
