"""Votes from elsewhere into the store: all of a file, or nothing of it."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from herd.arena.columns import MOST_TARGETS
from herd.arena.features import LANGUAGES, categories, style
from herd.arena.formats import COLUMN_OF, COLUMNS, MAX_VOTES, Format, Record, Wrong, read
from herd.arena.voters import voter_hash, voter_salt
from herd.gateway.foreign import read_answers, read_request, seconds
from herd.gateway.reply import recorded
from herd.store import Store
from herd.store.votes import prompt_hash

MAX_NAME = 200  # characters of a name, an id, a tag
MAX_TAGS = 50
MAX_MESSAGES = 1000  # of a conversation
MAX_COMMENT = 100_000
FAR = 1e11  # unix seconds that are no longer a date

OUTCOMES = {
    **dict.fromkeys(("model_a", "left", "a"), "a"),
    **dict.fromkeys(("model_b", "right", "b"), "b"),
    "tie": "tie",
    **dict.fromkeys(("tie (bothbad)", "both_bad", "bothbad", "both bad"), "both_bad"),
}
UNKNOWN = ("unknown", "und", "")
_COUNTS = ("sum_assistant_?_tokens", "header_count_?", "list_count_?", "bold_count_?")
STYLE = [name.replace("?", side) for side in "ab" for name in _COUNTS]


@dataclass
class Report:
    """`votes` were new, `known` in the store already. `left_out`: votes that do not count, by reason. `ignored`: columns
    that are not kept."""

    batch: str
    votes: int = 0
    known: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    ignored: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "left_out": dict(self.left_out), "ignored": sorted(self.ignored)}


def import_votes(
    file: BinaryIO,
    form: Format,
    store: Store,
    *,
    use: Sequence[str] = ("evaluate",),
    judge: str | None = None,
    progress: Callable[[int], None] = lambda bytes: None,
) -> Report:
    """Keep all votes of a file, or none if anything of it is wrong or the import is stopped.

    A vote has the same id whenever it is imported: its own, or one of the file's digest and its place; so that the same
    file again adds nothing. use: what the text that comes with votes may be used for. judge: the votes are this judge's,
    not people's. progress: called with the place in the file, in bytes. Raises HerdError 400 that names line and column.
    """
    file.seek(0)
    report = Report(hashlib.file_digest(file, "sha256").hexdigest()[:16])  # type: ignore[arg-type]
    file.seek(0)
    judge = judge and _plain(judge, "--judge", "judge")
    into = _Into(report, voter_salt(store), tuple(use), judge, time.time())

    def rows() -> Iterator[Mapping[str, Any]]:
        for number, (place, record) in enumerate(read(file, form)):
            if number >= MAX_VOTES:
                raise Wrong(place, f"over {MAX_VOTES:,} votes; import them in parts")
            if row := into.vote(record, place, number):
                report.votes += 1
                yield row
            if number % 1000 == 0:
                progress(file.tell())

    new = store.add_votes(rows())
    if not report.votes and not report.left_out:
        raise Wrong("the file", "no votes in it")
    report.votes, report.known = new, report.votes - new
    return report


@dataclass
class _Into:
    """What the votes of one file share."""

    report: Report
    salt: str
    use: tuple[str, ...]
    judge: str | None
    now: float
    names: set[str] = field(default_factory=set)

    def vote(self, record: Record, place: str, number: int) -> dict[str, Any] | None:
        """A row of the votes table, with its "generations" if it has text; None for one that is left out."""
        given = dict.fromkeys(COLUMNS)
        for name, value in record.items():
            if (column := COLUMN_OF.get(name)) is not None:
                given[column] = value if given[column] is None else given[column]
            elif len(self.report.ignored) < MAX_NAME:
                self.report.ignored.add(str(name)[:MAX_NAME])
        own = _object(given["herd"], place, "herd")
        a, b = (_plain(given[side], place, COLUMNS[side][0]) for side in ("a", "b"))
        self.names |= {a, b}
        if len(self.names) > MOST_TARGETS:
            raise Wrong(place, f"over {MOST_TARGETS:,} models in one file", COLUMNS["a"][0])
        said = given["winner"]
        outcome = OUTCOMES.get(said.strip().lower()) if isinstance(said, str) else None
        if outcome is None:
            raise Wrong(place, f"must be model_a, model_b, tie or both_bad, not {said!r:.60}", "winner")
        if a == b:
            self.report.left_out["a model against itself"] += 1
            return None
        if "source" not in own and given["anony"] in (False, "false", "False", "0"):
            self.report.left_out["not anonymous"] += 1
            return None
        voter, created = given["voter"], self._moment(given["created"], place)
        rater = self.judge or (
            _plain(own["rater"], place, "herd.rater") if own.get("rater") is not None else None
        )
        row: dict[str, Any] = {
            "id": self._id(given, place, number), "a_target": a, "b_target": b, "outcome": outcome, "batch": self.report.batch,
            "source": "judge" if rater else "import", "rater": rater, "created": created,
            "voter": None if voter is None or rater else voter_hash(self.salt, "import", _plain(voter, place, "judge")),
            "prompt": own.get("prompt"), "turns": _count(given["turn"], place), "comment": own.get("comment"),
            "conversation": self._conversation(given, own, place), "a_digest": own.get("a_digest"),
            "b_digest": own.get("b_digest"), "reasons": own.get("reasons"), "style": _style(given, place),
            "tags": _tags(given, own, place),
            "details": {name: own[name] for name in ("source", "first", "second", "lengths") if name in own} or None,
        }  # fmt: skip
        _check_own(own, place)
        if given["conversation_a"] is not None or given["conversation_b"] is not None:
            self._keep(row, given, place)
        return row

    def _id(self, given: Record, place: str, number: int) -> str:
        """The vote's own id if Herd gave it. Others' name a question, of which there may be several votes."""
        named = given["question_id"] or given["id"]
        whose = [_digest("judge", self.judge)[:16]] if self.judge else []  # two judges may say the same
        if named is None:
            return "-".join([self.report.batch, str(number), *whose])
        named = _plain(named, place, "question_id")
        said = [*(given[name] for name in ("a", "b", "winner", "voter", "created")), *whose]
        return named if given["herd"] is not None else _digest(named, "|".join(map(str, said)))

    def _moment(self, given: Any, place: str) -> float:
        with suppress(ValueError, TypeError):
            given = float(given) if isinstance(given, str) else given
        try:
            moment = seconds(given)
        except (ValueError, TypeError, OverflowError):
            raise Wrong(place, f"must be unix seconds or an ISO date, not {given!r:.60}", "tstamp") from None
        if moment is not None and not 0 <= moment <= FAR:  # NaN, too
            raise Wrong(place, f"{given!r:.60} is no time", "tstamp")
        return self.now if moment is None else moment

    def _conversation(self, given: Mapping[str, Any], own: Record, place: str) -> str | None:
        """What the vote belongs to. A question's number is the file's own; votes on it depend on each other."""
        if (whole := own.get("conversation") or given["conversation"]) is not None:
            return _digest("conversation", _plain(whole, place, "conversation_id"))
        if given["prompt"] is not None:
            return _digest(self.report.batch, str(given["prompt"]))
        return None

    def _keep(self, row: dict[str, Any], given: Record, place: str) -> None:
        """The conversations as generations of the row's targets."""
        row["conversation"] = row["conversation"] or _digest("vote", row["id"])
        row["generations"], asked, replies = [], [], []
        for side in ("a", "b"):
            said = _conversation(given[f"conversation_{side}"], place, f"conversation_{side}")
            row[side] = _digest(side, row["id"])
            try:
                request = read_request({"messages": said[:-1]}, "arena", "chat")
                reply = read_answers([{**said[-1], "role": "assistant"}])[0][0].content
                kept = recorded(request)
                json.dumps([kept, reply], allow_nan=False, ensure_ascii=False).encode()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise Wrong(place, f"not messages: {error}"[:200], f"conversation_{side}") from None
            asked.append([m.content for m in request.messages if m.role == "user"])
            replies.append(reply)
            row["generations"].append({
                "id": row[side], "route": "arena", "target": row[f"{side}_target"], "reply": reply,
                "target_digest": row[f"{side}_digest"], "request": kept, "finish": "stop",
                "conversation": row["conversation"], "created": row["created"], "use": list(self.use),
                "labels": {"import": "arena"},
            })  # fmt: skip
        row["turns"] = row["turns"] or len(asked[0])
        if asked[0]:
            row["prompt"] = row["prompt"] or prompt_hash(asked[0][0])
            row["tags"] = row["tags"] or categories(asked[0])
        row["style"] = row["style"] or [count for reply in replies for count in style(reply)]


def _check_own(own: Record, place: str) -> None:
    """Raises Wrong for what Herd's own export did not write."""
    for name, value in own.items():
        if name in ("source", "first", "second", "prompt", "a_digest", "b_digest", "comment"):
            most = MAX_COMMENT if name == "comment" else MAX_NAME
            good = value is None or (isinstance(value, str) and len(value) <= most)
        elif name in ("reasons", "lengths"):
            kind = str if name == "reasons" else int
            good = isinstance(value or [], list) and len(value or []) <= MAX_TAGS
            good = good and all(type(one) is kind and len(str(one)) <= MAX_NAME for one in value or [])
        else:
            continue
        if not good:
            raise Wrong(place, "is not as Herd writes it", f"herd.{name}")


def _plain(value: Any, place: str, column: str) -> str:
    """A name or an id: text of one line, or a whole number."""
    if type(value) is int and abs(value) < 10**30:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise Wrong(place, "missing" if value is None else f"must be text, not {value!r:.60}", column)
    if len(value) > MAX_NAME:
        raise Wrong(place, f"longer than {MAX_NAME} characters: {value!r:.60}", column)
    if not value.isprintable():
        raise Wrong(place, f"has characters that cannot be shown: {value!r:.60}", column)
    return value.strip()


def _opened(value: Any) -> Any:
    """What JSON text holds, as there is in CSV and Parquet."""
    with suppress(ValueError, RecursionError):
        return json.loads(value) if isinstance(value, str) else value
    return value


def _object(value: Any, place: str, column: str) -> Mapping[str, Any]:
    """Empty if there is none."""
    value = _opened(value)
    if value is not None and not isinstance(value, dict):
        raise Wrong(place, "must be an object", column)
    return value or {}


def _count(value: Any, place: str) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 9:
        value = int(value)
    if value is not None and not (type(value) is int and 0 <= value < 2**31):
        raise Wrong(place, f"must be a whole number, not {value!r:.60}", "turn")
    return value


def _conversation(value: Any, place: str, column: str) -> list[Mapping[str, Any]]:
    """Messages of which the last is the reply."""
    value = _opened(value)
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_MESSAGES:
        raise Wrong(place, f"must be a list of messages, 2 to {MAX_MESSAGES} of them", column)
    if not all(isinstance(message, dict) for message in value) or value[-1].get("role") != "assistant":
        raise Wrong(place, "must be messages, the last of them the assistant's", column)
    return value


def _tags(given: Record, own: Record, place: str) -> list[str] | None:
    """The categories that the file names."""
    if (tags := own.get("tags")) is not None:
        if not isinstance(tags, list) or len(tags) > MAX_TAGS:
            raise Wrong(place, f"must be a list of at most {MAX_TAGS} names", "herd.tags")
        return [_plain(tag, place, "herd.tags") for tag in tags]
    found = []
    if (language := given["language"]) is not None and str(language).lower() not in UNKNOWN:
        name = _plain(language, place, "language")
        found.append(f"language/{LANGUAGES.get(name.lower(), name)}")
    if given["is_code"] in (True, "true", "True"):
        found.append("code")
    groups = _object(given["category_tag"], place, "category_tag").values()
    if any(isinstance(group, dict) and group.get("math") is True for group in groups):
        found.append("maths")
    if (_count(given["turn"], place) or 1) > 1:
        found.append("multi-turn")
    return found or None


def _style(given: Record, place: str) -> list[float] | None:
    """Length, headers, lists and bold of a, then of b, as LMArena's conv_metadata has them; None if it lacks one."""
    about = _object(given["conv_metadata"], place, "conv_metadata")
    counts: list[Any] = [about.get(name) for name in STYLE]
    if None in counts:
        return None
    try:
        found = [float(sum(filter(None, n.values())) if isinstance(n, dict) else n) for n in counts]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(0 <= count < math.inf for count in found):
        raise Wrong(place, "its counts must be numbers", "conv_metadata")
    return found


def _digest(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}|{value}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
