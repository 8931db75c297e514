"""Chat templates (Jinja, as in a model's `tokenizer_config.json`) and the tokens of a conversation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.model.renderer import Renderer
from herd.model.template import BUNDLED, LLAMA3_TEMPLATE, digest, render
from herd.model.tokenizer import Tokenizer

__all__ = ["LLAMA3_TEMPLATE", "ChatTemplate", "Messages", "encode_chat", "encode_prompt", "strings"]

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A conversation's text, rendered exactly as `transformers` renders it.

    A template that is not one of ours is code of unknown origin: a child process compiles and renders it.
    Raises HerdError if it is not valid.
    """

    def __init__(
        self, source: str, *, bos_token: str = "<|begin_of_text|>", eos_token: str = "<|eot_id|>"
    ) -> None:
        self.source = source
        self._names = {"bos_token": bos_token, "eos_token": eos_token}
        self._render = partial(render, source) if digest(source) in BUNDLED else Renderer(source).render

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ChatTemplate:
        """The template of a model directory: `chat_template.jinja`, else the key in `tokenizer_config.json`.

        Raises HerdError if there is none: such a model completes text but does not chat.
        """
        directory = Path(directory)
        try:
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            config = {}
        except ValueError as error:
            raise HerdError(f"{directory / 'tokenizer_config.json'}: not JSON ({error})") from None
        file = directory / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = next((t["template"] for t in source if t.get("name") == "default"), None)
        if not isinstance(source, str):
            raise HerdError(f"{directory}: no chat template; use text completion with this model")
        names = {}
        for key in ("bos_token", "eos_token"):
            value = config.get(key)
            names[key] = value.get("content", "") if isinstance(value, dict) else value or ""
        return cls(source, **names)

    def render(self, messages: Messages, *, add_generation_prompt: bool = False, **context: Any) -> str:
        """The conversation as text; `context` are the template's own variables (`tools`, `date_string`, …).

        Raises HerdError when the template refuses the messages, fails, takes longer than a second or grows too large.
        """
        said = [dict(message) for message in messages]
        variables = {
            "messages": said,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._names,
            **context,
        }
        return self._render(variables)


def encode_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Token ids of the conversation up to where the assistant's reply begins; `tools` as transformers gives them.

    Special-token names inside the messages and tools stay text: their strings are broken with private-use marks while
    the template renders, and only the template's own text is parsed for special tokens.
    """
    return _encode(tokenizer, template, messages, tools, add_generation_prompt=True)


def encode_chat(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Messages
) -> tuple[list[int], list[bool]]:
    """Token ids of a whole conversation and, for each, whether it is the assistant's own (with its `<|eot_id|>`)."""
    ids: list[int] = []
    mask: list[bool] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _encode(tokenizer, template, messages[:i], add_generation_prompt=True)
        through = _encode(tokenizer, template, messages[: i + 1])
        if through[: len(before)] != before or before[: len(ids)] != ids:
            raise HerdError(
                "this chat template changes earlier turns when a turn is added; it cannot be trained on"
            )
        mask += [False] * (len(before) - len(ids)) + [True] * (len(through) - len(before))
        ids = through
    return ids, mask


def _encode(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **context: Any,
) -> list[int]:
    said = "\0".join(strings([messages, tools]))
    names = [name for name in tokenizer.special if name in said]
    if not names:
        return tokenizer.encode(template.render(messages, tools=tools, **context), special=True)
    # A forged name in a message: break it with a mark that no text contains, render, then encode piece by piece.
    mark = "\ue000"
    while mark in said:
        mark += "\ue001"
    broken = {name: name[0] + mark + name[1:] for name in names}
    rendered = template.render(_replace(messages, broken), tools=_replace(tools, broken), **context)
    ids: list[int] = []
    for i, piece in enumerate(_split_keep(rendered, tokenizer.special)):
        ids += [tokenizer.special[piece]] if i % 2 else tokenizer.encode(piece.replace(mark, ""))
    return ids


def strings(value: Any) -> Iterator[str]:
    """All strings in JSON types, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)


def _replace(value: Any, table: Mapping[str, str]) -> Any:
    """The value, with what the table says replaced in all its strings."""
    if isinstance(value, str):
        for old, new in table.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, Mapping):
        return {_replace(key, table): _replace(item, table) for key, item in value.items()}
    return [_replace(item, table) for item in value] if isinstance(value, Sequence) else value


def _split_keep(text: str, names: Mapping[str, int]) -> list[str]:
    import re

    return re.split("(" + "|".join(map(re.escape, names)) + ")", text)
