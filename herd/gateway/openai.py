"""Providers that speak OpenAI's dialect: OpenAI, vLLM, other Herds, and most vendors beside their own."""

from collections.abc import Mapping
from typing import Any, ClassVar

from yarl import URL

from herd.gateway.provider import Call
from herd.gateway.remote import Codec, Remote
from herd.protocol import Dialect, Request
from herd.protocol import upstream_openai as dialect

PATHS = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


class OpenAI(Remote):
    """With `private` it is taken for vLLM or Herd, which know more fields than OpenAI itself."""

    codec: ClassVar[Codec] = dialect
    home = "https://api.openai.com/v1"
    auth = ("Authorization", "Bearer ")
    passes: frozenset[Dialect] = frozenset({"chat", "completion"})  # a vector is decoded in any case

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return dialect.unsupported(call.request, extended=self.spec.private, whole=call.body is not None)

    def path(self, request: Request) -> str:
        return PATHS[request.kind]

    def encode(self, call: Call) -> dict[str, Any]:
        newest = URL(call.url or self.urls[0]).host == URL(self.home).host
        return dialect.encode(call.request, call.target.model, extended=self.spec.private, new_limit=newest)

    def body(self, call: Call) -> dict[str, Any]:
        body = super().body(call)
        if call.body is not None and call.request.stream:  # for the ledger: unasked, it is `hidden`
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body
