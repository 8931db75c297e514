"""Jinja as chat templates use it: the environment of `transformers`, and which templates are ours.

Imports no torch, so that a child process can render within a moment of its start (`herd.model.renderer`).
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from herd.errors import HerdError

# Llama 3's own: header, blank line, trimmed content, end of turn.
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


BUNDLED = frozenset({digest(LLAMA3_TEMPLATE)})  # what every bundled model uses; known to end, and soon


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` of training templates: rendered as its body."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    env.filters["tojson"] = lambda value, ensure_ascii=False, indent=None, separators=None, sort_keys=False: (
        json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
    )
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def render(source: str, variables: Mapping[str, Any] | None) -> str:
    """The template's text; with None for variables it is only compiled, and the text is empty.

    Runs the template's code for as long as it likes. Raises HerdError for whatever fails in it but lack of memory.
    """
    doing = "is not valid Jinja"
    try:
        template = _compiled(source)
        doing = "refused the messages"
        return "" if variables is None else template.render(variables)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise HerdError(f"the chat template {doing}: {reason}", code="chat_template_failed") from None
