"""From a request to token ids, refusing what cannot fit before it costs anything."""

from __future__ import annotations

from dataclasses import dataclass

from herd.errors import HerdError
from herd.model.chat import ChatTemplate, encode_prompt
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Request


@dataclass(frozen=True)
class Prompt:
    """Token ids; `lead` of them (the begin-of-text token) were added and are not echoed."""

    ids: list[int]
    lead: int = 0


def encode(request: Request, tokenizer: Tokenizer, template: ChatTemplate | None, context: int) -> Prompt:
    """The request's prompt. Raises HerdError (400) when it is malformed, empty or leaves no room for a reply.

    A chat's special-token names are text; a completion's are parsed, since its whole prompt is the caller's own.
    """
    if request.kind == "chat":
        if template is None:
            raise HerdError("this model has no chat template; use /v1/completions", code="no_chat_template")
        _refuse_long([m.content for m in request.messages], tokenizer, context)
        messages = [{k: v for k, v in m.to_json().items() if v is not None} for m in request.messages]
        prompt = Prompt(encode_prompt(tokenizer, template, messages))
    elif isinstance(request.prompt, str):
        _refuse_long([request.prompt], tokenizer, context)
        prompt = _begun(tokenizer.encode(request.prompt, special=True), tokenizer)
    else:
        if any(not 0 <= token < tokenizer.vocab_size for token in request.prompt):
            raise HerdError(f"prompt: token ids must be from 0 to {tokenizer.vocab_size - 1}")
        prompt = Prompt(list(request.prompt))
    if not prompt.ids:
        raise HerdError("the prompt is empty; send at least one token")
    room = request.sampling.max_tokens != 0  # scoring a prompt needs no place for a reply
    if len(prompt.ids) + room > context:
        raise too_long(str(len(prompt.ids)), context)
    return prompt


def too_long(count: str, context: int) -> HerdError:
    return HerdError(
        f"the prompt has {count} tokens and the model's context is {context}, which must hold the reply too;"
        " shorten the prompt",
        code="context_length_exceeded",
    )


def _begun(ids: list[int], tokenizer: Tokenizer) -> Prompt:
    """With the begin-of-text token that the model was trained to see first, unless it is there."""
    if tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id]:
        return Prompt(ids)
    return Prompt([tokenizer.bos_id, *ids], lead=1)


def _refuse_long(texts: list[str], tokenizer: Tokenizer, context: int) -> None:
    """Refuse text that is too long in any tokenisation, by its bytes alone."""
    try:
        least = sum(len(text.encode()) for text in texts) // max(tokenizer.longest_token, 1)
    except UnicodeEncodeError:
        raise HerdError("the prompt is not valid Unicode: it has half of a surrogate pair") from None
    if least > context:
        raise too_long(f"at least {least}", context)
