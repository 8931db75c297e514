"""The OpenAI dialect, chat completions and completions: request bodies to `Request`, events to replies.

Every field of the dialect is in `FIELDS`: honoured, recorded (it cannot change an answer) or refused. Refused fields
are accepted at their documented defaults, and null is accepted anywhere: it is the same as not sending the field.
The fields are those of the API reference, with vLLM's `top_k` and `min_p`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from herd.protocol.fields import Field, bad, flag, integer, known, number, unknown
from herd.protocol.openai_reply import (
    ChatStream,
    CompletionStream,
    encode_chat,
    encode_completion,
    encode_error,
    encode_models,
)
from herd.protocol.types import Message, Request, Role, Sampling

__all__ = [
    "FIELDS",
    "ChatStream",
    "CompletionStream",
    "decode_chat",
    "decode_completion",
    "encode_chat",
    "encode_completion",
    "encode_error",
    "encode_models",
]

MAX_CHOICES = 8
MAX_MESSAGES = 4096  # each costs time before its tokens can be counted
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000


_HONOURED, _LABEL = Field("honoured"), Field("recorded", str)
_BOTH = {
    "model": _HONOURED,
    "max_tokens": _HONOURED,
    "temperature": _HONOURED,
    "top_p": _HONOURED,
    "top_k": _HONOURED,
    "min_p": _HONOURED,
    "n": _HONOURED,
    "seed": _HONOURED,
    "stop": _HONOURED,
    "stream": _HONOURED,
    "stream_options": _HONOURED,
    "logprobs": _HONOURED,
    "store": _HONOURED,
    "user": _LABEL,
    "metadata": Field("recorded", dict),
    "frequency_penalty": Field("refused", (0,)),
    "presence_penalty": Field("refused", (0,)),
    "logit_bias": Field("refused", ({},)),
}
FIELDS: dict[str, dict[str, Field]] = {
    "chat": {
        **_BOTH,
        "messages": _HONOURED,
        "max_completion_tokens": _HONOURED,
        "top_logprobs": _HONOURED,
        "service_tier": Field("recorded", ("auto", "default")),
        "safety_identifier": _LABEL,
        "prompt_cache_key": _LABEL,
        "prompt_cache_retention": _LABEL,
        "prompt_cache_options": Field("recorded", dict),
        "audio": Field("refused"),
        "function_call": Field("refused", ("none", "auto")),
        "functions": Field("refused", ([],)),
        "modalities": Field("refused", (["text"],)),
        "moderation": Field("refused"),
        "parallel_tool_calls": Field("refused", (True,)),
        "prediction": Field("refused"),
        "reasoning_effort": Field("refused", ("none",)),
        "response_format": Field("refused", ({"type": "text"},)),
        "tool_choice": Field("refused", ("none", "auto")),
        "tools": Field("refused", ([],)),
        "verbosity": Field("refused", ("medium",)),
        "web_search_options": Field("refused"),
    },
    "completion": {
        **_BOTH,
        "prompt": _HONOURED,
        "echo": _HONOURED,
        "best_of": Field("refused", (1,)),
        "suffix": Field("refused", ("",)),
    },
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_MESSAGE_EXTRAS = ("refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id")


def decode_chat(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/chat/completions. Raises ProtocolError naming the field."""
    given = known(body, FIELDS["chat"])
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "must be a list with at least one message")
    if len(messages) > MAX_MESSAGES:
        raise bad("messages", f"has {len(messages):,} messages; at most {MAX_MESSAGES:,} are taken")
    logprobs = None
    wanted, top = flag(given, "logprobs"), integer(given, "top_logprobs", 0, 20)
    if wanted:
        logprobs = top or 0
    elif top is not None:
        raise bad("top_logprobs", 'needs "logprobs": true')
    limit, older = integer(given, "max_completion_tokens", 1), integer(given, "max_tokens", 1)
    if limit is not None and older is not None and limit != older:
        raise bad("max_tokens", "differs from max_completion_tokens: send only the latter")
    return _request(
        given,
        "chat",
        {"max_tokens": older if limit is None else limit, "logprobs": logprobs},
        messages=tuple(_message(message, f"messages[{i}]") for i, message in enumerate(messages)),
    )


def decode_completion(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/completions. Raises ProtocolError naming the field."""
    given = known(body, FIELDS["completion"])
    prompt, echo = _prompt(given.get("prompt")), flag(given, "echo")
    logprobs = integer(given, "logprobs", 0, 5)
    if echo and logprobs is not None:
        raise bad("echo", "cannot be combined with logprobs: the prompt's tokens are not scored")
    sampling = {"max_tokens": integer(given, "max_tokens", 0), "logprobs": logprobs}
    return _request(given, "completion", sampling, prompt=prompt, echo=echo)


def _request(
    given: dict[str, Any], kind: Literal["chat", "completion"], own: dict[str, Any], **fields: Any
) -> Request:
    """What the two dialects share; `own`: the sampling fields that they spell differently."""
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise bad("model", "must name a model; GET /v1/models lists them")
    top_k = integer(given, "top_k", -1)
    sampling = {
        "temperature": number(given, "temperature", 0, 2),
        "top_k": 0 if top_k == -1 else top_k,  # vLLM spells "off" as -1
        "top_p": number(given, "top_p", 0, 1),
        "min_p": number(given, "min_p", 0, 1),
        "seed": integer(given, "seed", -(2**63), 2**63 - 1),
        "stop": _stop(given.get("stop")),
        **own,
    }
    if sampling["top_p"] == 0:
        raise bad("top_p", "must be more than 0; for greedy decoding set temperature to 0")
    explicit = {name: value for name, value in sampling.items() if value is not None}
    stream = flag(given, "stream")
    return Request(
        route=model,
        kind=kind,
        sampling=Sampling(**explicit),
        n=integer(given, "n", 1, MAX_CHOICES) or 1,
        stream=stream,
        include_usage=_include_usage(given.get("stream_options"), stream),
        store=flag(given, "store", True),
        labels={name: value for name, value in given.items() if FIELDS[kind][name].treatment == "recorded"},
        explicit=frozenset(explicit),
        **fields,
    )


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise bad(where, "must be an object with role and content")
    role = value.get("role")
    if role in ("tool", "function"):
        raise bad(
            f"{where}.role", f"{role!r} is not supported: this server calls no tools", "unsupported_field"
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    for field, content in value.items():
        if field in _MESSAGE_EXTRAS:
            if content not in (None, []):
                raise bad(f"{where}.{field}", "is not supported: leave it out", "unsupported_field")
        elif field not in ("role", "content", "name"):
            raise unknown(field, ("role", "content", "name"), f" in {where}")
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise bad(f"{where}.name", "must be a string")
    return Message(_ROLES[role], _content(value.get("content"), f"{where}.content"), name)


def _content(value: Any, where: str) -> str:
    """A string, or text parts joined as they are."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad(where, "must be a string or a list of text parts")
    texts = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            message = f"is of type {kind!r:.60}; only text parts are supported"
            raise bad(f"{where}[{i}]", message, "unsupported_field")
        if not isinstance(part.get("text"), str):
            raise bad(f"{where}[{i}].text", "must be a string")
        if extra := part.keys() - {"type", "text"}:
            raise unknown(min(extra), ("type", "text"), f" in {where}[{i}]")
        texts.append(part["text"])
    return "".join(texts)


def _prompt(value: Any) -> str | tuple[int, ...]:
    """A text or token ids, alone or as the only item of a list."""
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        if len(value) > 1:
            raise bad("prompt", f"holds {len(value)} prompts: send one a request")
        value = value[0]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad("prompt", "must be a string or a list of token ids")
    if not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise bad("prompt", "must be a string or a list of token ids, integers from 0 on")
    return tuple(value)


def _stop(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise bad("stop", "must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise bad("stop", f"has {len(stops)} strings; at most {MAX_STOPS} are possible")
    if not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise bad("stop", f"must be strings of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(stops)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise bad("stream_options", "must be an object")
    options = ("include_usage", "include_obfuscation")
    for name in value:
        if name not in options:
            raise unknown(name, options, " in stream_options")
        flag(value, name, where="stream_options.")
    wanted = flag(value, "include_usage")
    if wanted and not stream:
        raise bad("stream_options", 'needs "stream": true')
    return wanted
