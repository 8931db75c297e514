"""The Anthropic dialect from the other side: canonical requests to bodies for a provider, its replies to events.

Nothing here reads or writes a network.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from herd.protocol import upstream
from herd.protocol.anthropic import FIELDS
from herd.protocol.anthropic_reply import encode_call
from herd.protocol.refusals import format_path
from herd.protocol.types import (
    Called,
    Delta,
    Event,
    Finished,
    FinishReason,
    Image,
    Message,
    Reasoned,
    Request,
    Started,
    Usage,
)
from herd.protocol.upstream import Asking, count, part

OWN = ("messages",)
MAX_TOKENS = 8192  # the dialect must have a limit; this one every model takes that is served today
_UNKNOWN = ("min_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs")
_DATA = re.compile(r"data:(image/[a-z0-9.+-]+);base64,(.*)", re.DOTALL)
_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # it wants to go on
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def unsupported(request: Request, *, whole: bool = False) -> dict[str, str]:
    """The fields that the dialect has no words for: each with the reason. `whole`: the caller's body goes as it is."""
    why = "is not known to the Anthropic dialect: leave it out"
    lost = upstream.extra(request, OWN, whole)
    sampling = upstream.set_sampling(request)
    lost |= dict.fromkeys(upstream.steering(request, _UNKNOWN), why)
    if request.kind != "chat":
        lost["model"] = f"is one of a provider that answers chats only, no {request.kind}"
    if sampling.get("temperature", 1) > 1:
        lost["temperature"] = "must be at most 1 in the Anthropic dialect"
    if request.n > 1:
        lost["n"] = "must be 1 in the Anthropic dialect"
    if request.format and request.format.kind != "json_schema":
        kind = request.format.kind
        lost[format_path(request)] = (
            f"of the kind {kind} is not known to the Anthropic dialect: give a JSON schema"
        )
    for i, message in enumerate(request.messages):
        if message.name is not None and message.role != "tool":  # whose call is known by its id
            lost[f"messages[{i}].name"] = why
        for image in message.images:
            if image.url.startswith("data:") and not _DATA.fullmatch(image.url):
                lost[image.path] = "must be an image in base64, or where to find it"
            elif message.role in ("system", "assistant"):
                lost[image.path] = "is an image, which only a user or a tool can show"
    return lost


def encode(request: Request, model: str) -> dict[str, Any]:
    """The body for /v1/messages, or of a count for /v1/messages/count_tokens."""
    said = list(request.messages)
    leading = [said.pop(0).content for _ in range(_leading(request.messages))]
    body: dict[str, Any] = {
        "model": model,
        "messages": list(_turns(said)),
        "system": "\n".join(leading) if leading else None,
    }
    if not request.count:
        sampling = upstream.set_sampling(request)
        limit = sampling.get("max_tokens")
        body["max_tokens"] = MAX_TOKENS if limit is None else limit
        body |= {name: sampling.get(name) for name in ("temperature", "top_k", "top_p")}
        body |= {"stop_sequences": list(sampling.get("stop", ())) or None, "stream": request.stream or None}
    body = upstream.present(body | _tools(request) | _output(request))
    table = FIELDS["count" if request.count else "message"]
    if request.dialect in OWN:
        body |= {name: value for name, value in request.labels.items() if name in table}
        if "cache_control" not in body and any(path.endswith(".cache_control") for path in request.labels):
            body["cache_control"] = {"type": "ephemeral"}  # the places it named may have moved
    elif isinstance(user := request.labels.get("user"), str) and not request.count:
        body["metadata"] = {"user_id": user}
    return upstream.put_extra(body, request, OWN)


def _leading(messages: tuple[Message, ...]) -> int:
    return next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))


def _turns(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """Turns of the dialect: a user's holds the results of calls before its text."""
    roles = {"system": "system", "assistant": "assistant"}
    for role, run in groupby(messages, key=lambda message: roles.get(message.role, "user")):
        match [block for message in run for block in _blocks(message)]:
            case [{"type": "text", "text": text}]:
                yield {"role": role, "content": text}
            case blocks if blocks:
                yield {"role": role, "content": blocks}


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    said = [_piece(piece) for piece in upstream.pieces(message)]
    if message.role == "tool":
        content: Any = message.content if not message.images else said
        yield {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}
        return
    if message.signature:  # thoughts without one are another provider's; the dialect refuses them
        yield {"type": "thinking", "thinking": message.reasoning, "signature": message.signature}
    yield from said
    yield from map(encode_call, message.tool_calls)


def _piece(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    if match := _DATA.fullmatch(piece.url):
        source = {"type": "base64", "media_type": match[1], "data": match[2]}
    else:
        source = {"type": "url", "url": piece.url}
    return {"type": "image", "source": source}


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    tools = [
        upstream.about(tool, input_schema={"type": "object", **tool.parameters}) for tool in request.tools
    ]
    choice: dict[str, Any] = {"type": {"required": "any"}.get(request.tool_choice, request.tool_choice)}
    if request.tool_name is not None:
        choice = {"type": "tool", "name": request.tool_name}
    if not request.parallel_tool_calls and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": None if choice == {"type": "auto"} else choice}


def _output(request: Request) -> dict[str, Any]:
    """How the reply is to look, and how much to think before it."""
    thinking, effort = None, request.effort
    if request.dialect in OWN and "thinking" in request.labels:  # it goes there as it was said
        effort = request.labels.get("output_config.effort")
    elif effort == "none":
        thinking, effort = {"type": "disabled"}, None
    elif effort is not None:
        thinking = None if request.dialect in OWN else {"type": "adaptive"}
        effort = "low" if effort == "minimal" else effort
    format = {"type": "json_schema", "schema": request.format.schema} if request.format else None
    return {
        "thinking": thinking,
        "output_config": upstream.present({"format": format, "effort": effort}) or None,
    }


class Stream:
    """The events of a provider's stream to canonical ones. `hidden`: never, here; every event may be passed on."""

    hidden = False

    def __init__(self, request: Request) -> None:
        self.request = request
        self._begun = self._done = False
        self._block: dict[str, Any] | None = None  # that is being written
        self._blocks = 0
        self._asking: Asking | None = None
        self._calls: list[Called | None] = []  # None: one whose arguments were no JSON object
        self._reason: FinishReason | None = None
        self._counts: dict[str, Any] = {}
        self._characters = 0

    def feed(self, event: str | None, data: str | Mapping[str, Any]) -> tuple[Event, ...]:
        """The canonical events of one. Raises ValueError for one that the dialect does not have, or not there;
        ErrorEvent for one that says that the provider failed."""
        said = upstream.read(data)
        kind = part(said, "type", str, event or "")
        if kind == "error" or event == "error":
            raise upstream.error_event(said.get("error"), said)
        step = _STEPS.get(kind)
        if self._done or (step and self._begun is (kind == "message_start")):
            raise ValueError(f"the provider sent a {kind:.60} where none can be")
        return step(self, said) if step else ()  # a ping, or what the dialect will have one day

    def end(self) -> tuple[Event, ...]:
        """Nothing, when the bytes have ended after the reply. Raises ValueError if it has not ended."""
        if not self._done:
            raise ValueError("the provider's reply broke off")
        return ()

    def _start(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        self._begun = True
        self._count(part(said, "message", dict))
        used = self._usage()
        return (Started(used.prompt_tokens, used.cached_tokens),)

    def _open(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        if self._block is not None or part(said, "index", int) != self._blocks:
            raise ValueError("the provider began a content block out of turn")
        block = self._block = part(said, "content_block", dict)
        self._blocks += 1
        match part(block, "type", str):
            case "text":
                return self._text(part(block, "text", str, ""))
            case "thinking":
                return self._thought(part(block, "thinking", str, ""), part(block, "signature", str, ""))
            case "tool_use":
                given = part(block, "input", dict, {})
                self._asking = Asking(part(block, "id", str), part(block, "name", str))
                self._asking.pieces += [json.dumps(given, ensure_ascii=False)] if given else []
        return ()

    def _check_open(self, said: Mapping[str, Any], did: str) -> None:
        if self._block is None or part(said, "index", int) != self._blocks - 1:
            raise ValueError(f"the provider {did} a content block that is not open")

    def _delta(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        self._check_open(said, "wrote into")
        delta = part(said, "delta", dict)
        match part(delta, "type", str):
            case "text_delta":
                return self._text(part(delta, "text", str))
            case "thinking_delta":
                return self._thought(part(delta, "thinking", str), "")
            case "signature_delta":
                return self._thought("", part(delta, "signature", str))
            case "input_json_delta" if self._asking:
                self._asking.pieces.append(part(delta, "partial_json", str))
                self._characters += len(delta["partial_json"])
        return ()

    def _close(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        self._check_open(said, "closed")
        asked, self._block, self._asking = self._asking, None, None
        if asked is None:
            return ()
        call = asked.called(0)
        self._calls.append(call)
        return (call,) if call else ()

    def _text(self, text: str) -> tuple[Event, ...]:
        self._characters += len(text)
        return (Delta(0, text),) if text else ()

    def _thought(self, text: str, signature: str) -> tuple[Event, ...]:
        self._characters += len(text)
        return (Reasoned(0, text, signature),) if text or signature else ()

    def _finish(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        self._count(said)
        delta = part(said, "delta", dict)
        reason = part(delta, "stop_reason", str, "")
        if not reason or self._reason is not None:
            return ()
        self._reason = upstream.ended(_REASONS, reason, self._calls)
        return (Finished(0, self._reason, part(delta, "stop_sequence", str, "") or None),)

    def _end(self, said: Mapping[str, Any]) -> tuple[Event, ...]:
        if self._reason is None or self._block is not None:
            raise ValueError("the provider's reply ended before it was complete")
        self._done = True
        return (self._usage(),)

    def _count(self, said: Mapping[str, Any]) -> None:
        """Later counts are of the whole reply, as far as they are given."""
        counts = part(said, "usage", dict, {})
        self._counts |= {name: value for name, value in counts.items() if value is not None}

    def _usage(self) -> Usage:
        """The dialect's input tokens are those that no cache read or wrote."""
        if "output_tokens" not in self._counts or "input_tokens" not in self._counts:
            return upstream.guess(self.request, self._characters)
        read = count(self._counts, "cache_read_input_tokens")
        written = count(self._counts, "cache_creation_input_tokens")
        thought = count(part(self._counts, "output_tokens_details", dict, {}), "thinking_tokens")
        prompt = count(self._counts, "input_tokens") + read + written
        return Usage(prompt, count(self._counts, "output_tokens"), read, written, thought)


_STEPS: dict[str, Callable[[Stream, Mapping[str, Any]], tuple[Event, ...]]] = {
    "message_start": Stream._start,
    "content_block_start": Stream._open,
    "content_block_delta": Stream._delta,
    "content_block_stop": Stream._close,
    "message_delta": Stream._finish,
    "message_stop": Stream._end,
}


def decode(body: Mapping[str, Any] | str | bytes, request: Request) -> tuple[Event, ...]:
    """The events of a whole message. Raises ValueError if it is none, ErrorEvent if it says that the provider failed."""
    whole = upstream.read(body)
    if whole.get("type") == "error":
        raise upstream.error_event(whole.get("error"), whole)
    stream = Stream(request)
    events: list[Event] = [*stream.feed(None, {"type": "message_start", "message": whole})]
    for index, block in enumerate(part(whole, "content", list)):
        at = {"index": index}
        events += stream.feed(None, {"type": "content_block_start", **at, "content_block": block})
        events += stream.feed(None, {"type": "content_block_stop", **at})
    events += stream.feed(None, {"type": "message_delta", "delta": whole, "usage": whole.get("usage")})
    return (*events, *stream.feed(None, {"type": "message_stop"}))


def decode_count(body: Mapping[str, Any] | str | bytes) -> tuple[Event, ...]:
    """The events of a counted prompt. Raises ValueError if the body is none."""
    tokens = count(upstream.read(body), "input_tokens")
    return Started(tokens), Usage(tokens, 0)
