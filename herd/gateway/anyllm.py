"""Providers of other dialects by way of any-llm (`pip install "any-llm-sdk[VENDOR]"`), which has a client for each."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from herd.errors import HerdError
from herd.gateway.provider import Call, Chunk, UpstreamError
from herd.gateway.route import ProviderSpec
from herd.gateway.secrets import Secrets
from herd.protocol import Dialect, Event, upstream
from herd.protocol import upstream_openai as dialect

KINDS = {  # of errors without a status: codes, and the status of their like
    "UnsupportedParameterError": ("unsupported_field", 400),
    "InvalidRequestError": ("invalid_request", 400),
    "ContextLengthExceededError": ("context_length_exceeded", 400),
    "ContentFilterError": ("content_filter", 400),
    "AuthenticationError": ("authentication_error", 401),
    "InsufficientFundsError": ("insufficient_quota", 402),
    "ModelNotFoundError": ("model_not_found", 404),
    "RateLimitError": ("rate_limit_exceeded", 429),
    "GatewayTimeoutError": ("upstream_timeout", 504),
}


class AnyLLM:
    """A vendor's chats and embeddings. Its own client connects to its own addresses, without our guard.

    any-llm takes and gives OpenAI's forms. Raises HerdError where any-llm, the vendor's client or the key is missing.
    """

    passes: frozenset[Dialect] = frozenset()
    urls: tuple[str, ...] = ("",)

    def __init__(self, spec: ProviderSpec, environ: Mapping[str, str]) -> None:
        self.name, self.secrets = spec.name, Secrets(spec.name, environ)
        if not spec.vendor or spec.urls or spec.headers:
            raise self._wrong("any-llm must have a vendor, and can have no base_url or headers")
        key = self.secrets.get(spec.key) if spec.key else None
        try:
            from any_llm import AnyLLM as Vendor
            from any_llm.exceptions import UnsupportedParameterError

            create = partial(Vendor.create, spec.vendor, key, unified_exceptions=True)
            try:
                self._vendor: Any = create(max_retries=0)  # attempts are the gateway's, which counts them
            except UnsupportedParameterError:
                self._vendor = create()
        except ImportError:
            raise self._wrong(f'needs a package: pip install "any-llm-sdk[{spec.vendor}]"') from None
        except Exception as error:
            raise self._wrong(_said(error)) from None

    def unsupported(self, call: Call) -> Mapping[str, str]:
        lost = dialect.unsupported(call.request)
        if call.request.kind == "completion":
            lost["model"] = "is one of a provider that answers no completion"
        return lost

    async def generate(self, call: Call) -> AsyncGenerator[Event | Chunk, None]:
        request, problem = call.request, None
        body = dialect.encode(request, call.target.model)
        try:
            if request.kind == "embedding":
                reply = await self._vendor.aembedding(body.pop("model"), body.pop("input"), **body)
            else:
                reply = await self._vendor.acompletion(**body)
            if not request.stream:
                for event in dialect.decode(reply.model_dump(mode="json"), request):
                    yield event
                return
            stream = dialect.Stream(request)
            async with aclosing(reply):
                async for chunk in reply:
                    for event in stream.feed(None, chunk.model_dump(mode="json")):
                        yield event
            for event in stream.feed(None, "[DONE]"):
                yield event
        except Exception as error:
            problem = self._failure(error)
        if problem is not None:
            raise problem

    async def models(self) -> list[str]:
        try:
            return [model.id for model in await self._vendor.alist_models()]
        except Exception as error:
            problem = self._failure(error)
        raise problem

    async def close(self) -> None:
        """any-llm has nothing to close."""

    def _wrong(self, said: str) -> HerdError:
        return HerdError(str(self.secrets.error(said)), code="bad_provider")

    def _failure(self, error: Exception) -> UpstreamError:
        if isinstance(error, upstream.ErrorEvent):
            return self.secrets.told(error.told)
        if type(error) is ValueError:  # of our codec
            return self.secrets.error(str(error), "upstream_malformed")
        kind = type(error).__name__
        known = getattr(error, "status_code", None)
        told = {"message": _said(error), "code": getattr(error, "code", None) or KINDS.get(kind, ("", 0))[0]}
        headers = {"retry-after": getattr(error, "retry_after", None) or ""}
        status = known if isinstance(known, int) and known >= 400 else KINDS.get(kind, ("", 502))[1]
        body = self.secrets.clean(json.dumps(told).encode())  # before it is shortened
        return self.secrets.told(upstream.decode_error(status, headers, body), known)


def _said(error: Exception) -> str:
    """any-llm's own words; those of other packages are not known to be fit for everybody's eyes."""
    message = getattr(error, "message", None) if hasattr(error, "provider_name") else None
    return message if isinstance(message, str) else f"its client failed with {type(error).__name__}"
