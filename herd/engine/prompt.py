"""From a request to token ids, refusing what cannot fit before it costs anything."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from herd.engine.conversation import conversation
from herd.engine.grammar import Grammar, Grammars
from herd.engine.tools import Calls
from herd.errors import HerdError
from herd.model.chat import ChatTemplate, encode_prompt, strings
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Request


@dataclass(frozen=True)
class Prompt:
    """Token ids; `lead` of them (the begin-of-text token) were added and are not echoed.

    `grammar`: what every reply must be a sentence of; `calls`: the tools that replies may call.
    """

    ids: list[int]
    lead: int = 0
    grammar: Grammar | None = None
    calls: Calls | None = None


def encode(
    request: Request,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    context: int,
    grammars: Grammars,
    *,
    wait: bool = True,
) -> Prompt:
    """The request's prompt. Raises HerdError (400) when it is malformed, empty or leaves no room for a reply, or when
    its tools or format are not supported; NotCompiled rather than `wait` for a grammar.

    A chat's special-token names are text; a completion's are parsed, since its whole prompt is the caller's own.
    """
    if request.count:  # of what is too long, too
        context = sys.maxsize
    # An embedding has no reply, nor has a prompt that is only scored.
    room = request.kind != "embedding" and request.sampling.max_tokens != 0
    try:
        prompt = _read(request, tokenizer, template, context, room)
    except RecursionError:
        raise HerdError("the messages or tools are nested too deep") from None
    if not prompt.ids:
        raise HerdError("the prompt is empty; send at least one token")
    if len(prompt.ids) + room > context:
        raise too_long(len(prompt.ids), context, room)
    format = grammars.of(request.format, wait=wait) if request.format else None
    source = prompt.calls.source(format) if prompt.calls else format
    return replace(prompt, grammar=grammars.compile(source, wait=wait)) if source else prompt


def _read(
    request: Request, tokenizer: Tokenizer, template: ChatTemplate | None, context: int, room: bool
) -> Prompt:
    if request.kind == "chat":
        if template is None:
            raise HerdError("this model has no chat template; use /v1/completions", code="no_chat_template")
        calls = Calls.of(request, template.source)
        messages, tools = conversation(request.messages, calls, template)
        _refuse_long(strings([messages, tools]), tokenizer, context, room)
        return Prompt(encode_prompt(tokenizer, template, messages, tools), calls=calls)
    if isinstance(request.prompt, str):
        _refuse_long([request.prompt], tokenizer, context, room)
        return _begun(tokenizer.encode(request.prompt, special=True), tokenizer)
    if any(not 0 <= token < tokenizer.vocab_size for token in request.prompt):
        field = "input" if request.kind == "embedding" else "prompt"
        raise HerdError(f"{field}: token ids must be from 0 to {tokenizer.vocab_size - 1}")
    return Prompt(list(request.prompt))


def too_long(count: object, context: int, room: bool = True) -> HerdError:
    reply = ", which must hold the reply too" if room else ""
    return HerdError(
        f"the prompt has {count} tokens and the model's context is {context}{reply}; shorten the prompt",
        code="context_length_exceeded",
    )


def _begun(ids: list[int], tokenizer: Tokenizer) -> Prompt:
    """With the begin-of-text token that the model was trained to see first, unless it is there."""
    if tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id]:
        return Prompt(ids)
    return Prompt([tokenizer.bos_id, *ids], lead=1)


def _refuse_long(texts: Iterable[str], tokenizer: Tokenizer, context: int, room: bool) -> None:
    """Refuse text that is too long in any tokenisation, by its bytes alone."""
    try:
        least = sum(len(text.encode()) for text in texts) // max(tokenizer.longest_token, 1)
    except UnicodeEncodeError:
        raise HerdError("the prompt is not valid Unicode: it has half of a surrogate pair") from None
    if least > context:
        raise too_long(f"at least {least}", context, room)
