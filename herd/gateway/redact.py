"""Takes what should not be kept out of kept text: addresses, numbers, secrets, and what one's own expressions find.

What is found becomes "[email]", "[card]", …, of one's own expressions "[redacted]", and where that is longer than what was
found, as many asterisks. Text never grows, and redacting it again changes nothing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from herd.errors import HerdError

MAX_RULES, MAX_PATTERN = 50, 500
MAX_WIDTH = 1000  # characters that an expression may match
MAX_WAYS = 100  # in which it may try to match at one place: the time is at most this often the text's length
MAX_PASSES = 8

# Each pattern begins where a word or number does, so that a long run of characters is read once.
_SECRETS = "|".join(
    (
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----END))*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
        r"(?:hk|sk)-[\w-]{16,}",
        r"(?:[spr]k|whsec)_(?:(?:live|test)_)?[A-Za-z0-9]{16,}",
        r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
        r"(?:gh[pousr]_|github_pat_|hf_|npm_)\w{20,}",
        r"(?:glpat-|xox[abeoprs]-|AIza)[\w-]{16,}",
        r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
        r"[Bb]earer +[\w.~+/-]{16,}=*",
    )
)
_PHONE = (
    r"(?<![\w+.])(?:\+\d[\d ().-]{6,20}\d|(?:1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}"
    r"|\(?0\d{1,4}\)?[ /-]\d{2,8}(?:[ -]\d{2,8}){0,4})(?![\w])"
)
_IP = (
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:\.\d{1,3}){0,3})"
    r"(?![\w:]|\.\d)"
)

Spans = list[tuple[int, int]]
Find = Callable[[str], Spans]  # where in a candidate what is to go begins and ends


def _all(text: str) -> Spans:
    return [(0, len(text))]


def _phone(text: str) -> Spans:
    least = 9 if text.lstrip("(")[0] == "0" else 8
    date = re.match(r"\d\d[-/ ]\d\d[-/ ]\d{4}", text)
    return _all(text) if not date and least <= sum(c.isdigit() for c in text) <= 15 else []


def _card(text: str) -> Spans:
    """Whole groups of digits that are a number of 13 to 19 digits with a right check digit."""
    groups = [(m.start(), m.end()) for m in re.finditer(r"\d+", text)]
    found: Spans = []
    for place, (start, _) in enumerate(groups):
        if "2" <= text[start] <= "6" and (not found or start > found[-1][1]):
            for _, end in groups[place : place + 19]:
                digits = [int(c) for c in text[start:end] if c.isdigit()]
                if len(digits) > 19:
                    break
                doubled = sum(d * 2 - 9 * (d > 4) for d in digits[-2::-2])
                if len(digits) >= 13 and (sum(digits[-1::-2]) + doubled) % 10 == 0:
                    found.append((start, end))
                    break
    return found


def _iban(text: str) -> Spans:
    for end in (len(text), *(m.start() for m in reversed(list(re.finditer(" ", text))))):
        plain = text[:end].replace(" ", "")
        if len(plain) >= 15 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1:
            return [(0, end)]
    return []


def _ip(text: str) -> Spans:
    try:
        return _all(text) if ip_address(text) and text != "::" else []
    except ValueError:
        return []


# In this order, whatever order they are asked for in: a card number is no telephone number.
RULES: Mapping[str, tuple[re.Pattern[str], Find]] = {
    "secret": (re.compile(rf"(?<![A-Za-z0-9])(?:{_SECRETS})"), _all),
    "email": (re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+"), _all),
    "iban": (re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])"), _iban),
    "card": (re.compile(r"(?<![A-Za-z0-9])[0-9](?:[ -]?[0-9]){12,}(?!\w)"), _card),
    "ip": (re.compile(_IP), _ip),
    "phone": (re.compile(_PHONE), _phone),
}
_TAG = re.compile(r"\[(?:" + "|".join((*RULES, "redacted")) + r")\]")


def check_rules(rules: Sequence[str]) -> None:
    """Raises HerdError for an expression that is wrong, or that some text could keep busy for long."""
    _compile(tuple(rules))


def redact(text: str, rules: Sequence[str]) -> str:
    """`text` without what the rules find: names of RULES, and regular expressions. Raises as `check_rules` does."""
    compiled = _compile(tuple(rules))
    for _ in range(MAX_PASSES):
        before = text
        for tag, pattern, find in compiled:
            text = pattern.sub(lambda m, tag=tag, find=find: _replace(m.group(), tag, find), text)  # type: ignore[misc]
        if text == before:
            return text
    return "[redacted]"[: len(text)]  # expressions that find each other's traces


def redact_row(row: Mapping[str, Any], rules: Sequence[str]) -> dict[str, Any]:
    """A generation's row with all its text redacted: of request, reply, reasoning, calls, labels and error.

    What gives it its form stays (roles, types, ids, names of tools), and so do pictures and token ids.
    """
    if not rules:
        return dict(row)
    text_of = ("request", "reply", "reasoning", "calls", "response", "labels", "error")
    response = row.get("response") or {}
    scores = response.get("logprobs", [])
    whole = {**row, "response": {**response, "logprobs": []} if response else None}
    changed = {key: _walk(whole[key], key, rules, free=key == "labels") for key in text_of if whole.get(key)}
    if scores and changed.get("reply") == row["reply"]:  # else its tokens would spell what was taken out
        changed["response"]["logprobs"] = scores
    return {**row, **changed}


def _replace(found: str, tag: str, find: Find) -> str:
    for start, end in reversed([] if _TAG.fullmatch(found) else find(found)):
        found = found[:start] + (tag if len(tag) <= end - start else "*" * (end - start)) + found[end:]
    return found


# Strings with these names say what a request is, not what somebody wrote; but in a free part anything is text.
_FORM = frozenset("role kind type id name route model object status tool_call_id call_id tool_choice tool_name signature "
                  "detail effort".split())  # fmt: skip
_FREE = frozenset({"labels", "metadata", "extra", "parameters", "schema"})


def _walk(value: Any, key: str, rules: Sequence[str], free: bool) -> Any:
    if isinstance(value, str):
        if key == "arguments":
            return _arguments(value, rules)
        whole = key in _FORM and not free or key == "url" and value.startswith("data:")
        return value if whole else redact(value, rules)
    if isinstance(value, Mapping):
        own = {"name"} if "role" in value else set()  # who speaks, not which tool
        named = {k: redact(k, rules) if free and key != "extra" else k for k in value}
        return {named[k]: _walk(v, k, rules, free or k in _FREE or k in own) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walk(item, key, rules, free) for item in value]
    if free and isinstance(value, (int, float)) and not isinstance(value, bool):
        digits = str(value)
        return value if (clean := redact(digits, rules)) == digits else clean
    return value


def _arguments(text: str, rules: Sequence[str]) -> str:
    """JSON stays JSON, also where a number goes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return redact(text, rules)
    clean = _walk(value, "", rules, free=True)
    return text if clean == value else json.dumps(clean, ensure_ascii=False, separators=(",", ":"))


@lru_cache(256)
def _compile(rules: tuple[str, ...]) -> list[tuple[str, re.Pattern[str], Find]]:
    if len(rules) > MAX_RULES:
        raise HerdError(f"redact has {len(rules)} rules; {MAX_RULES} are possible")
    named = [(f"[{name}]", *RULES[name]) for name in RULES if name in rules]
    return named + [("[redacted]", _own(rule), _all) for rule in rules if rule not in RULES]


def _own(rule: str) -> re.Pattern[str]:
    known = f"the rules are {', '.join(RULES)}, or regular expressions"
    if re.fullmatch("[a-z_]+", rule):
        word = f"[{rule[0]}]{rule[1:]:.40}"
        raise HerdError(f"redact: no rule {rule!r:.60}; {known} (write {word} for the word)")
    if len(rule) > MAX_PATTERN:
        raise HerdError(f"redact: an expression of {len(rule)} characters; {MAX_PATTERN} are possible")
    try:
        parsed = sre_parser.parse(rule)
        pattern = re.compile(rule)
        ways = _ways(parsed)
    except (re.error, OverflowError, RecursionError) as error:
        raise HerdError(f"redact: {rule!r:.80} is no regular expression: {error}; {known}") from None
    least, most = parsed.getwidth()
    if least == 0:
        raise HerdError(f"redact: {rule!r:.80} matches nothing, and so everywhere")
    if ways > MAX_WAYS or most > MAX_WIDTH:
        fix = "give + and * an end, as in \\d{1,20}, and repeat no part that can itself match in several ways"
        raise HerdError(f"redact: {rule!r:.80} could take long on some text: {fix}")
    return pattern


def _ways(parsed: Any) -> float:
    """At most so many ways of matching are tried at one place; infinite for what has no such limit."""
    total = 1.0
    for kind, value in parsed:
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            low, high, inner = value
            each = _ways(inner)
            if high > MAX_WIDTH:
                return float("inf")
            total *= sum(min(each, 1e9) ** min(n, 30) for n in range(low, high + 1))
        elif kind is sre.BRANCH:
            total *= sum(_ways(branch) for branch in value[1])
        elif kind in (sre.SUBPATTERN, sre.ASSERT, sre.ASSERT_NOT):
            total *= _ways(value[-1])
        elif kind is sre.ATOMIC_GROUP:
            total *= _ways(value)
        elif kind in (sre.GROUPREF, sre.GROUPREF_EXISTS):
            return float("inf")
    return total
