"""The OpenAI dialect from the other side: canonical requests to bodies for a provider, its replies to events.

`extended`: the provider knows vLLM's fields too, as vLLM and Herd do. Nothing here reads or writes a network.
"""

import re
from collections.abc import Mapping
from typing import Any

from herd.protocol import upstream
from herd.protocol.openai import FIELDS
from herd.protocol.openai_reply import LOWEST, encode_call
from herd.protocol.refusals import format_path
from herd.protocol.types import (
    Delta,
    Embedded,
    Event,
    Finished,
    FinishReason,
    Format,
    Image,
    Message,
    Reasoned,
    Request,
    Started,
    TokenLogprob,
    Usage,
)
from herd.protocol.upstream import Asking, count, part, parts

OWN = ("chat", "completion", "embedding")
_EXTENDED = {"top_k", "min_p"}
_NO_TEXT = re.compile(r"bytes:(?=.*\\x)(?:[ -\[\]-~]|\\[\\tnr']|\\x[0-9a-f]{2})*")
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def unsupported(request: Request, *, extended: bool = False, whole: bool = False) -> dict[str, str]:
    """The fields that the dialect has no words for: each with the reason. `whole`: the caller's body goes as it is."""
    why = "is not known to the OpenAI dialect: leave it out"
    lost = upstream.extra(request, OWN, whole)
    if not extended:
        lost |= dict.fromkeys(upstream.steering(request, _EXTENDED), why)
        if request.format and (request.format.kind in ("regex", "lark") or request.kind == "completion"):
            lost[format_path(request)] = why
    if request.count:
        lost["model"] = "is one of a provider that does not count tokens beforehand"
    if request.dialect == "messages" and request.messages[-1].role == "assistant":
        lost["messages"] = "must not end with the assistant's: its beginning cannot be set"
    for message in request.messages:
        if message.role != "user":
            lost |= {image.path: "is an image, which only a user can show here" for image in message.images}
    return lost


def encode(
    request: Request, model: str, *, extended: bool = False, new_limit: bool = False
) -> dict[str, Any]:
    """The body for /chat/completions, /completions or /embeddings. `new_limit`: the provider wants
    max_completion_tokens, as OpenAI's own reasoning models do."""
    prompt, *more = [one if isinstance(one, str) else list(one) for one in (request.prompt, *request.more)]
    if request.kind == "embedding":
        return _labelled({"model": model, "input": [prompt, *more] if more else prompt}, request)
    chat, sampling = request.kind == "chat", upstream.set_sampling(request)
    limit, logprobs = sampling.pop("max_tokens", None), sampling.pop("logprobs", None)
    unknown = () if extended else _EXTENDED
    body: dict[str, Any] = {
        "model": model,
        **{name: list(v) if name == "stop" else v for name, v in sampling.items() if name not in unknown},
        "max_completion_tokens" if new_limit and chat else "max_tokens": limit,
        "n": request.n if request.n > 1 else None,
        "stream": request.stream or None,
        "stream_options": {"include_usage": True} if request.stream else None,
    }
    if chat:
        body["messages"] = [_message(message, extended) for message in request.messages]
        body |= {"logprobs": logprobs is not None or None, "top_logprobs": logprobs, **_tools(request)}
        body["reasoning_effort"] = request.effort
    else:
        body |= {"prompt": prompt, "echo": request.echo or None, "logprobs": logprobs}
    return _labelled(upstream.present(body | _format(request.format, request.kind)), request)


def _labelled(body: dict[str, Any], request: Request) -> dict[str, Any]:
    """With what was recorded for the provider too. Not metadata: that labels what is stored, and it is stored here."""
    known = FIELDS[request.kind].keys() - {"metadata"}
    if request.dialect in (*OWN, "responses"):
        body |= {name: value for name, value in request.labels.items() if name in known}
    elif isinstance(user := (request.labels.get("metadata") or {}).get("user_id"), str):
        body["user"] = user
    return upstream.put_extra(body, request, OWN)


def _message(message: Message, extended: bool) -> dict[str, Any]:
    content: Any = message.content
    if message.images:
        content = [_piece(piece) for piece in upstream.pieces(message)]
    calls = [encode_call(call) for call in message.tool_calls]
    more = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        # Others refuse what they do not know; none of them needs it.
        "reasoning_content": (extended and message.reasoning) or None,
    }
    return {
        "role": message.role,
        "content": (content or None) if calls else content,
        **upstream.present(more),
    }


def _piece(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    detail = {} if piece.detail == "auto" else {"detail": piece.detail}
    return {"type": "image_url", "image_url": {"url": piece.url, **detail}}


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice: Any = None if request.tool_choice == "auto" else request.tool_choice
    if request.tool_name is not None:
        choice = {"type": "function", "function": {"name": request.tool_name}}
    tools = [
        {"type": "function", "function": upstream.about(tool, parameters=tool.parameters)}
        for tool in request.tools
    ]
    parallel = None if request.parallel_tool_calls else False
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}


def _format(format: Format | None, kind: str) -> dict[str, Any]:
    if format is None:
        return {}
    if format.kind in ("regex", "lark"):
        return {"structured_outputs": {"regex" if format.kind == "regex" else "grammar": format.text}}
    if kind == "completion":
        wanted = {"json_object": True} if format.kind == "json_object" else {"json": format.schema}
        return {"structured_outputs": wanted}
    if format.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "reply", "schema": format.schema, "strict": _strict(format.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _strict(schema: Any) -> bool:
    """Whether OpenAI takes the schema as one that must hold: its objects are closed, and have all their fields."""
    if isinstance(schema, list):
        return all(map(_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        names = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(names):
            return False
    return all(map(_strict, schema.values()))


class Stream:
    """The payloads of a provider's stream to events; `hidden`: the last one holds only a usage that the caller did
    not ask for."""

    def __init__(self, request: Request) -> None:
        self.request, self.hidden = request, False
        self._begun = self._done = False
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self._asking: dict[int, dict[int, Asking]] = {}
        self._refused: set[int] = set()
        self._characters = 0

    def feed(self, event: str | None, data: str | Mapping[str, Any]) -> tuple[Event, ...]:
        """The events of one payload. Raises ValueError for one that the dialect does not have, ErrorEvent for one that
        says that the provider failed."""
        if self._done:
            raise ValueError("the provider went on after the end of its reply")
        if isinstance(data, str) and data.strip() == "[DONE]":
            return self._end()
        return self._read(upstream.read(data), "delta", event)

    def end(self) -> tuple[Event, ...]:
        """What is left to say when the bytes have ended. Raises ValueError if the reply has not."""
        if self._done:
            return ()
        if self._usage is None:  # neither it nor [DONE] came
            raise ValueError("the provider's reply broke off")
        return self._end()

    def whole(self, body: Mapping[str, Any]) -> tuple[Event, ...]:
        """All events of a body that holds the whole reply. Raises as `feed`."""
        part(body, "choices", list, [] if body.get("error") else None)
        return (*self._read(body, "message"), *self._end())

    def _read(self, chunk: Mapping[str, Any], where: str, event: str | None = None) -> tuple[Event, ...]:
        if event == "error" or chunk.get("error") or chunk.get("object") == "error":
            raise upstream.error_event(chunk.get("error") or chunk, chunk)
        if said := chunk.get("usage"):
            self._usage = _usage(part(chunk, "usage", dict))
        choices = parts(chunk, "choices", "choice", [])
        self.hidden = not choices and bool(said) and not self.request.include_usage
        return self._start([event for choice in choices for event in self._choice(choice, where)])

    def _start(self, events: list[Event]) -> tuple[Event, ...]:
        if self._begun or not events:
            return tuple(events)
        self._begun = True
        known = self._usage or Usage(upstream.prompt_guess(self.request), 0)
        return (Started(known.prompt_tokens, known.cached_tokens), *events)

    def _end(self) -> tuple[Event, ...]:
        if len(self._finished) < self.request.n:
            raise ValueError("the provider's reply ended before it was complete")
        self._done = True
        return (self._usage or upstream.guess(self.request, self._characters),)

    def _choice(self, choice: Mapping[str, Any], where: str) -> list[Event]:
        index = part(choice, "index", int, 0)
        if not 0 <= index < self.request.n:
            raise ValueError(f"the provider answered with choice {index}; {self.request.n} were asked for")
        said = choice if self.request.kind == "completion" else part(choice, where, dict, {})
        text, thought = _content(said, "text" if self.request.kind == "completion" else "content")
        refusal = part(said, "refusal", str, "")
        if refusal:
            self._refused.add(index)
        logprobs = _logprobs(choice.get("logprobs"), self.request)
        calls = parts(said, "tool_calls", "tool call", [])
        if index in self._finished and (text or thought or refusal or calls):
            raise ValueError("the provider went on with a choice that it had finished")
        self._characters += len(text) + len(thought) + len(refusal)
        events: list[Event] = [Reasoned(index, thought)] if thought else []
        if text or refusal or logprobs:
            events.append(Delta(index, text + refusal, logprobs=logprobs))
        for call in calls:
            self._ask(index, call)
        reason = part(choice, "finish_reason", str, "")
        if reason and index not in self._finished:
            self._finished.add(index)
            events += self._finish(index, reason)
        return events

    def _ask(self, index: int, call: Mapping[str, Any]) -> None:
        asking = self._asking.setdefault(index, {})
        id, function = part(call, "id", str, ""), part(call, "function", dict, {})
        name, piece = part(function, "name", str, ""), part(function, "arguments", str, "")
        new = len(asking) if id and all(id != one.id for one in asking.values()) else len(asking) - 1
        place = part(call, "index", int, max(new, 0))  # some servers do not number them
        one = asking.get(place)
        if one is None:
            if len(asking) >= 1024:
                raise ValueError("the provider called more than 1,024 tools")
            one = asking[place] = Asking(id, name)
        elif id and one.id and id != one.id:
            raise ValueError("the provider gave two tool calls one place")
        one.id, one.name = one.id or id, one.name or name
        one.pieces.append(piece)
        self._characters += len(piece)

    def _finish(self, index: int, told: str) -> list[Event]:
        asked = self._asking.pop(index, {})
        calls = [asked[place].called(index) for place in sorted(asked)]
        reason, whole = upstream.ended(_REASONS, told, calls), [call for call in calls if call]
        if whole and reason == "stop":
            reason = "tool_calls"  # so it ends at some servers, and where one tool had to be called
        return [*whole, Finished(index, "content_filter" if index in self._refused else reason)]


def decode(body: Mapping[str, Any] | str | bytes, request: Request) -> tuple[Event, ...]:
    """The events of a whole reply. Raises ValueError if it is none, ErrorEvent if it says that the provider failed."""
    whole = upstream.read(body)
    if request.kind != "embedding":
        return Stream(request).whole(whole)
    if whole.get("error"):
        raise upstream.error_event(whole["error"], whole)
    vectors: dict[int, tuple[float, ...]] = {}
    for place, item in enumerate(part(whole, "data", list)):
        one = part({"data": item}, "data", dict)
        vector = parts(one, "embedding", "number", kind=float)
        if not vector:
            raise ValueError("the provider sent an empty vector")
        vectors[part(one, "index", int) if "index" in one else place] = tuple(vector)
    if sorted(vectors) != list(range(1 + len(request.more))) or len(vectors) < len(whole["data"]):
        raise ValueError("the provider did not send a vector for each input")
    used = _usage(whole["usage"]) if isinstance(whole.get("usage"), dict) else upstream.guess(request, 0)
    embedded = [Embedded(place, vectors[place]) for place in sorted(vectors)]
    return Started(used.prompt_tokens), *embedded, used


def _content(said: Mapping[str, Any], name: str) -> tuple[str, str]:
    """What is said, and what was thought before; Mistral gives both as parts of the content."""
    if not isinstance(said.get(name), list):
        thought = part(said, "reasoning_content", str, "") or part(said, "reasoning", str, "")
        return part(said, name, str, ""), thought
    texts, thoughts = "", ""
    for one in parts(said, name, "content"):
        match part(one, "type", str):
            case "thinking":
                thoughts += "".join(part(step, "text", str) for step in parts(one, "thinking", "step"))
            case "text":
                texts += part(one, "text", str)
            case _:
                raise ValueError("the provider sent content that is no text")
    return texts, thoughts


def _usage(said: Mapping[str, Any]) -> Usage:
    read = part(said, "prompt_tokens_details", dict, {})
    made = part(said, "completion_tokens_details", dict, {})
    completion, reasoning = count(said, "completion_tokens"), count(made, "reasoning_tokens")
    if reasoning > completion:  # some providers count them apart
        completion += reasoning
    cached, written = count(read, "cached_tokens"), count(read, "cache_write_tokens")
    return Usage(count(said, "prompt_tokens"), completion, cached, written, reasoning)


def _logprobs(value: Any, request: Request) -> tuple[TokenLogprob, ...]:
    if value is None or request.sampling.logprobs is None:
        return ()
    given = part({"logprobs": value}, "logprobs", dict)
    if request.kind == "chat":
        return tuple(map(_scored, parts(given, "content", "logprobs", [])))
    tokens, scores = part(given, "tokens", list, []), part(given, "token_logprobs", list, [])
    tops = part(given, "top_logprobs", list, [None] * len(tokens))
    if not len(tokens) == len(scores) == len(tops):
        raise ValueError("the provider sent logprobs of other tokens than it named")
    rows = zip(tokens, scores, tops, strict=True)
    return tuple(
        _scored({"token": t, "bytes": _bytes(t), "logprob": s, "top_logprobs": _ranked(top)})
        for t, s, top in rows
    )


def _ranked(top: Any) -> list[dict[str, Any]]:
    ranked = part({"top_logprobs": top}, "top_logprobs", dict, {})
    return [{"token": t, "bytes": _bytes(t), "logprob": score} for t, score in ranked.items()]


def _bytes(token: Any) -> list[int] | None:
    """Of a token that is no text and so is spelled by its bytes, as in bytes:\\xf0."""
    if not isinstance(token, str) or not _NO_TEXT.fullmatch(token):
        return None
    return list(token.removeprefix("bytes:").encode().decode("unicode_escape").encode("latin-1"))


def _scored(given: Mapping[str, Any], *, alone: bool = False) -> TokenLogprob:
    token, spelled = part(given, "token", str), given.get("bytes")
    try:
        raw = token.encode() if spelled is None else bytes(part(given, "bytes", list))
    except TypeError:
        raise ValueError("the provider sent a token whose bytes are none") from None
    others = [] if alone else parts(given, "top_logprobs", "logprobs", [])
    top = tuple(_scored(other, alone=True) for other in others)
    # Ids are the provider's own affair; a prompt's first token has no logprob.
    return TokenLogprob(token, 0, raw, part(given, "logprob", float, LOWEST), top)
