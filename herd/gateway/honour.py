"""Leaving out of a request what a target cannot honour, where the route allows it."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from herd.protocol import Request, Sampling

_DEFAULT, _SAMPLING = Request("", "chat"), Sampling()
# Fields of the canonical request by the names that the dialects have for them.
_NAMES = {
    "response_format": "format", "text.format": "format", "output_config.format": "format",
    "reasoning_effort": "effort", "reasoning.effort": "effort", "output_config.effort": "effort",
    "tools": "tools", "tool_choice": "tool_choice", "parallel_tool_calls": "parallel_tool_calls", "n": "n",
    "echo": "echo",
}  # fmt: skip
_SAMPLED = {
    "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "stop_sequences": "stop",
    "top_logprobs": "logprobs",
} | {field.name: field.name for field in fields(Sampling)}  # fmt: skip


def without(request: Request, dropped: Iterable[str]) -> Request:
    """The request without the fields `dropped`, which are named as the caller spells them."""
    extra, sampling, changed = dict(request.extra), request.sampling, dict[str, Any]()
    for name in dropped:
        extra = {path: value for path, value in extra.items() if path != name}
        if name in _SAMPLED:
            own = _SAMPLED[name]
            sampling = replace(sampling, **{own: getattr(_SAMPLING, own)})
        elif name in _NAMES:
            changed[_NAMES[name]] = getattr(_DEFAULT, _NAMES[name])
    explicit = request.explicit - {_SAMPLED[name] for name in dropped if name in _SAMPLED}
    return replace(request, extra=extra, sampling=sampling, explicit=explicit, **changed)
