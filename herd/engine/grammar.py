"""Structured output: which tokens may come next, so that a reply is a sentence of a grammar (by `llguidance`)."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from herd.engine.checker import Checker, compiled
from herd.engine.schema import MAX_PATTERN, clean
from herd.errors import HerdError
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Format

MAX_TEXT = {"lark": 128 << 10, "regex": MAX_PATTERN}  # characters
CACHED = 16  # compiled grammars an engine keeps
# At each place where JSON may have white space: one space, or a line's end and an indentation.
WHITESPACE = r" |\n {0,20}"
# Names of tool formats are text to a grammar, whether or not the tokenizer has a token for them.
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")

K = TypeVar("K")
V = TypeVar("V")

# What only an engine that takes tokens back, or samples by rule, could honour.
_UNSUPPORTED = re.compile(r"^[a-zA-Z_][\w-]*\s*\[[^\]\n]*\b(stop|max_tokens|temperature)\s*=", re.M)


@dataclass(frozen=True)
class Source:
    """A grammar in llguidance's form; `limits` names the bounds of its work in a step."""

    text: str
    limits: Literal["schema", "grammar"] = "schema"


def json_rule(schema: Any) -> str:
    """A schema that `clean` gave, as an expression of a Lark grammar."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    options = {"whitespace_pattern": WHITESPACE, "lenient": False, "coerce_one_of": False}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def lark_of(format: Format, convert: Callable[[str], str]) -> Source:
    """The format's grammar. Raises HerdError (400) that names what is not supported.

    `convert` makes Lark of a grammar in GBNF.
    """
    if format.kind == "json_object":
        return Source("start: " + json_rule({"type": "object"}))
    if format.kind == "json_schema":
        return Source("start: " + json_rule(clean(format.schema, "the schema")))
    if any("\ud800" <= char <= "\udfff" for char in format.text):
        raise HerdError(f"the {format.kind} has half of a surrogate pair", code="invalid_grammar")
    if len(format.text) > (most := MAX_TEXT[format.kind]):
        raise HerdError(
            f"the {format.kind} has more than {most} characters; send a shorter one",
            code="invalid_grammar",
        )
    if format.kind == "regex":
        return Source(f"start: /{_regex(format.text)}/", "grammar")
    if found := _UNSUPPORTED.search(format.text):
        raise HerdError(f"the grammar: the option {found[1]!r} is not supported", code="invalid_grammar")
    return Source(convert(format.text), "grammar")


def _regex(pattern: str) -> str:
    """A pattern as it stands between slashes; it must match the whole reply, so anchors around it add nothing."""
    from llguidance import regex_to_lark

    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", pattern):
        pattern = pattern[:-1]
    if not pattern:
        raise HerdError("the regular expression is empty", code="invalid_grammar")
    return str(regex_to_lark(pattern, ""))


class NotCompiled(Exception):
    """A grammar that is not known yet: to compile it takes a while."""


class _Once(Generic[K, V]):
    """What `make` gave for a key, or the refusal (a HerdError of status 400) that it raised. Thread-safe.

    One is made at a time; known ones are had at once meanwhile. The last CACHED results are kept, and as many
    refusals, which so push no result out.
    """

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make, self._making, self._looking = make, threading.Lock(), threading.Lock()
        self._known: tuple[OrderedDict[K, V], OrderedDict[K, HerdError]] = OrderedDict(), OrderedDict()

    def get(self, key: K, wait: bool) -> V:
        """Raises HerdError (400) again, NotCompiled rather than `wait`."""
        found = self._find(key)
        if found is None and not wait:
            raise NotCompiled
        if found is None:
            with self._making:
                found = self._find(key) or self._put(key)  # another thread may have been first
        if isinstance(found, HerdError):
            raise HerdError(str(found), status=found.status, code=found.code)
        return found

    def _find(self, key: K) -> V | HerdError | None:
        with self._looking:
            for known in self._known:
                if key in known:
                    known.move_to_end(key)
                    return known[key]  # type: ignore[return-value]
        return None

    def _put(self, key: K) -> V | HerdError:
        made: Any
        try:
            made, known = self._make(key), self._known[0]
        except HerdError as error:
            if error.status != 400:
                raise  # ours, not the grammar's
            made, known = error, self._known[1]  # type: ignore[assignment]
        with self._looking:
            known[key] = made
            if len(known) > CACHED:
                known.popitem(last=False)
        return made  # type: ignore[no-any-return]


class Grammars:
    """Compiles grammars for one vocabulary, and keeps those that were used last. Thread-safe.

    `stop_ids` are allowed where, and only where, the grammar lets a reply end.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._checker = Checker()
        self._vocabulary: Any = None  # made when first needed: it takes a second for 128k tokens
        self._converted = _Once(self._checker.convert)
        self._compiled = _Once(self._compile)

    def of(self, format: Format, *, wait: bool = True) -> Source:
        """The format's grammar. Raises HerdError (400) when it is not supported, NotCompiled rather than `wait`."""
        return lark_of(format, lambda text: self._converted.get(text, wait))

    def compile(self, source: Source, *, wait: bool = True) -> Grammar:
        """Raises HerdError (400) for a grammar that is wrong, or too large to compile within a bounded time,
        NotCompiled rather than `wait`.
        """
        return self._compiled.get(source, wait)

    def _compile(self, source: Source) -> Grammar:
        self._checker.check(source.text, source.limits)
        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self._stop_ids)
        return Grammar(compiled(self._vocabulary, source.text, source.limits), self._vocabulary.vocab_size)


class Grammar:
    """A compiled grammar, for any number of replies."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher, self._size = matcher, size

    def matcher(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._size)


class Matcher:
    """One reply's place in its grammar; it moves on only in `accept`."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)
        self._refused: Tensor | None = None  # of this place, once it was asked for
        self.broken = False  # a step took more work than is allowed, or nothing can follow

    @property
    def stopped(self) -> bool:
        """Nothing can follow: the text is whole."""
        return not self.broken and bool(self._matcher.is_stopped())

    @property
    def accepting(self) -> bool:
        """The text is whole as it stands."""
        return not self.broken and bool(self._matcher.is_accepting())

    def mask(self, logits: Tensor) -> Tensor:
        """A copy of logits [V] with minus infinity for every token that may not come next; as it is once `broken`."""
        if self.broken:
            return logits
        if self._refused is None:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: len(logits)]
            refused = np.ones(len(logits), dtype=bool)
            refused[: len(allowed)] = allowed == 0
            if self._matcher.is_error() or refused.all():
                self.broken = True
                return logits
            self._refused = torch.from_numpy(refused)
        return logits.masked_fill(self._refused.to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Move on. A token that `mask` refused breaks the matcher."""
        self._refused = None
        if not self.broken and not self._matcher.consume_token(token):
            self.broken = True


def _vocabulary(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> Any:
    """llguidance's form of the vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    vocabulary = _Vocabulary(tokenizer, stop_ids)
    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=vocabulary.stops)


class _Vocabulary:
    """What llguidance asks of a tokenizer, under its names."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.stops = sorted(i for i in stop_ids if i < len(self.tokens))
        if not self.stops:  # a model that never ends by itself: a token that it cannot draw
            self.stops = [len(self.tokens)]
            self.tokens.append(b"<end>")
        self.eos_token_id = self.stops[0]
        text = {tokenizer.special[name] for name in MARKERS if name in tokenizer.special}
        self.special_token_ids = sorted(({*tokenizer.special.values(), *self.stops}) - text)
        self._markers = {name: tokenizer.special[name] for name in MARKERS if name in tokenizer.special}
        self._split = re.compile("(" + "|".join(map(re.escape, MARKERS)) + ")")

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("text, not bytes")  # llguidance tries both once
        ids: list[int] = []
        for piece in self._split.split(text):
            ids += [self._markers[piece]] if piece in self._markers else self._tokenizer.encode(piece)
        return ids
