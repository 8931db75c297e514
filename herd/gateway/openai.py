"""Providers that speak OpenAI's dialect: OpenAI, vLLM, other Herds, and most vendors beside their own."""

from collections.abc import Mapping
from typing import Any

from yarl import URL

from herd.gateway.provider import Call
from herd.gateway.remote import Remote, Stream
from herd.protocol import Dialect, Event, Request
from herd.protocol import upstream_openai as dialect

PATHS = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


class OpenAI(Remote):
    """With `private` it is taken for vLLM or Herd, which know more fields than OpenAI itself."""

    home = "https://api.openai.com/v1"
    auth = ("Authorization", "Bearer ")
    passes: frozenset[Dialect] = frozenset({"chat", "completion"})  # a vector is decoded in any case

    def unsupported(self, call: Call) -> Mapping[str, str]:
        whole = call.body is not None
        return dialect.unsupported(call.request, extended=self.spec.private, whole=whole)

    def path(self, request: Request) -> str:
        return PATHS[request.kind]

    def body(self, call: Call) -> dict[str, Any]:
        if call.body is None:
            newest = URL(call.url or self.urls[0]).host == URL(self.home).host
            return dialect.encode(
                call.request, call.target.model, extended=self.spec.private, new_limit=newest
            )
        body = {**call.body, "model": call.target.model}
        if call.request.stream:  # the usage is for the ledger; where nobody asked for it, it is `hidden`
            body["stream_options"] = {**(call.body.get("stream_options") or {}), "include_usage": True}
        return body

    def stream(self, request: Request) -> Stream:
        return dialect.Stream(request)

    def decode(self, body: bytes, request: Request) -> tuple[Event, ...]:
        return dialect.decode(body, request)
