"""What stands behind a target: one small protocol, which the local engine and every vendor's dialect fulfil."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from herd.errors import HerdError
from herd.protocol import Dialect, Event, Failed, Request


class UpstreamError(HerdError):
    """A provider that cannot answer, or not now.

    `retryable`: another attempt, here or elsewhere, may succeed; a request that the provider finds wrong is wrong
    everywhere. `retry_after`: the seconds that it asked to be left alone. `status` and `code` are what our caller gets
    if nobody else can answer: 502 for a broken provider, 504 for one that is too slow, 429 or 503 for a busy one, and
    its own 4xx where the request is at fault. `upstream`: the provider's status, None where no answer came. `param`: the
    field that is at fault, as the caller spells it, if one is known to be.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        code: str = "upstream_error",
        retryable: bool = True,
        retry_after: float | None = None,
        upstream: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, retry_after=retry_after)
        self.retryable, self.upstream, self.param = retryable, upstream, param

    @classmethod
    def of(cls, event: Failed) -> Self:
        """What to raise for a reply that ended so."""
        wait = event.retry_after
        return cls(event.message, status=event.status, code=event.code, retry_after=wait, param=event.param)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events, and the bytes by which the provider said them: whole server-sent events with their blank lines, or the
    whole JSON body of a reply that does not stream. They go to a caller of the same dialect as they are."""

    events: tuple[Event, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What answers: a provider's `model` (the local engine's: a registry name) with a system prompt and sampling.

    `digest` changes whenever any of it does.
    """

    name: str
    provider: str
    model: str
    digest: str
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt: `request`, which has the target's defaults already, to be answered by `target` at `url`.

    `salt`: whose cached prefixes the reply may use. `body`: the caller's own, if `dialect` is the provider's and
    nothing in it must change but the name of the model; then the answer may come in `Chunk`s.
    """

    request: Request
    target: Target
    url: str = ""  # one of the provider's `urls`
    salt: str = ""
    dialect: Dialect | None = None
    body: Mapping[str, Any] | None = None


class Provider(Protocol):
    """`urls`: its replicas, one of which is chosen for each attempt; the local engine has one, "".

    `passes`: the dialects in which it answers, so that bytes need not be encoded again.
    """

    name: str
    urls: tuple[str, ...]
    passes: frozenset[Dialect]

    def unsupported(self, call: Call) -> Mapping[str, str]:
        """The fields of the request, as the caller spells them, that it cannot honour: each with the reason."""
        ...

    def generate(self, call: Call) -> AsyncGenerator[Event | Chunk, None]:
        """Answer a chat (streamed or not), a completion, an embedding or a count.

        A whole answer has a Finished for each choice (none for an embedding) and ends with Usage. Raises UpstreamError,
        also in the middle. Closing the iterator stops the provider's work. Timeouts, retries and fallbacks are the
        caller's.
        """
        ...

    async def models(self) -> list[str]:
        """The names of its models. Raises UpstreamError."""
        ...

    async def close(self) -> None: ...
