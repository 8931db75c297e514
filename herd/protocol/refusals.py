"""What a target cannot honour of a request: named as the caller's dialect names it, refused or left out."""

import re
from collections.abc import Container, Iterable
from dataclasses import replace

from herd.protocol import anthropic, openai, responses
from herd.protocol.fields import Field, refusal
from herd.protocol.types import Request, Sampling

_TABLES = {
    "chat": (openai.FIELDS["chat"], openai.PARTS),
    "completion": (openai.FIELDS["completion"], openai.PARTS),
    "embedding": (openai.FIELDS["embedding"], openai.PARTS),
    "responses": ({**responses.FIELDS["count"], **responses.FIELDS["response"]}, responses.PARTS),
    "messages": (anthropic.FIELDS["message"], anthropic.PARTS),
}
_EFFORT = {"responses": "reasoning.effort", "messages": "output_config.effort"}
_FORMAT = {"responses": "text.format", "messages": "output_config.format"}
_IMAGE = {"responses": "input_image", "messages": "image"}


def unsupported_fields(request: Request) -> dict[str, str]:
    """The fields that the local engine refuses, by path, each with the reason: "PATH REASON" is the error's message."""
    lost = {
        path: refusal(accepts) for path in request.extra if (accepts := _accepts(request, path)) is not None
    }
    if request.effort not in (None, "none"):
        path = effort_path(request)
        lost[path] = refusal(_accepts(request, path) or ())
    for message in request.messages:
        kind = _IMAGE.get(request.dialect or "", "image_url")
        lost |= {
            image.path: f"is of type {kind!r}; only text parts are supported" for image in message.images
        }
    if request.dialect == "messages" and request.messages[-1].role == "assistant":
        lost["messages"] = "must not end with the assistant's: its beginning cannot be set"
    return lost


def effort_path(request: Request) -> str:
    """Where the caller said how much to reason."""
    path = _EFFORT.get(request.dialect or "", "reasoning_effort")
    return "thinking" if "thinking" in request.labels and path not in request.labels else path


def format_path(request: Request) -> str:
    """Where the caller said what the reply must be."""
    if request.format and request.format.path:
        return request.format.path
    told = request.format is not None and request.format.kind in ("json_object", "json_schema")
    where = _FORMAT.get(request.dialect or "", "response_format")
    return where if told and request.kind == "chat" else "structured_outputs"


def at_fault(request: Request, code: str) -> str | None:
    """Where the caller said what the engine refuses with this code; None where it may be more than one field."""
    called = bool(request.tools) and request.tool_choice != "none"
    if code == "invalid_tools":
        return "tools"
    if code not in ("invalid_grammar", "unsupported_schema") or called == (request.format is not None):
        return None  # one grammar is made of both
    return "tools" if called else format_path(request)


def may_drop(path: str, drop: Container[str]) -> bool:
    """Whether a route's `drop` has the field: its path, with "[]" for any place in a list, or "*"."""
    return "*" in drop or path in drop or re.sub(r"\[\d+\]", "[]", path) in drop


def leave_out(request: Request, paths: Iterable[str]) -> Request:
    """The request without the fields that `unsupported_fields` or a provider named, and a route allows to drop."""
    default = Sampling()
    for path in paths:
        if path in request.extra:
            request = replace(request, extra={p: v for p, v in request.extra.items() if p != path})
        elif path == effort_path(request):
            labels = {p: v for p, v in request.labels.items() if p not in ("thinking", path)}
            request = replace(request, effort=None, labels=labels)
        elif path == format_path(request):
            request = replace(request, format=None)
        elif path in Sampling.__dataclass_fields__:
            sampling = replace(request.sampling, **{path: getattr(default, path)})
            request = replace(request, sampling=sampling, explicit=request.explicit - {path})
        elif path == "n":
            request = replace(request, n=1)
        else:
            messages = tuple(
                replace(
                    message,
                    images=tuple(image for image in message.images if image.path != path),
                    name=None if path == f"messages[{i}].name" else message.name,
                )
                for i, message in enumerate(request.messages)
            )
            request = replace(request, messages=messages)
    return request


def _accepts(request: Request, path: str) -> tuple[object, ...] | None:
    """The values that the local engine takes; None: it honours the field."""
    body, parts = _TABLES[request.dialect or "chat"]
    name = path.rpartition(".")[2]
    tables = [body] if name == path else list(parts.values())
    found: list[Field] = [table[name] for table in tables if name in table]
    taken = next((f for f in found if f.treatment != "honoured"), None)
    return taken.accepts if taken and isinstance(taken.accepts, tuple) else None
