"""Votes and preference pairs out of the store, in the forms that others read and import takes back."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, Literal, get_args

from herd.arena.formats import Format
from herd.arena.imports import STYLE
from herd.errors import HerdError
from herd.gateway.exports import the_pyarrow
from herd.store import Store
from herd.store.votes import asked, prompt_hash, spoken

Form = Literal[Format, "preferences"]
Purpose = Literal["train", "evaluate"]
# The media type of each form, and how its files' names end.
TYPES: Mapping[str, tuple[str, str]] = {
    "fastchat": ("application/x-ndjson", "jsonl"), "preferences": ("application/x-ndjson", "jsonl"),
    "csv": ("text/csv; charset=utf-8", "csv"), "counts": ("application/json", "json"),
    "parquet": ("application/vnd.apache.parquet", "parquet"),
}  # fmt: skip

GROUP = 5000  # rows of a row group in Parquet
WINNERS = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
BLIND = ("arena", "embed", "stored")  # sources whose voters did not know the names
FLAT = "question_id model_a model_b winner judge turn anony language tstamp is_code conv_metadata herd".split()  # fmt: skip

Row = Mapping[str, Any]


def export(
    file: BinaryIO,
    form: Form,
    store: Store,
    *,
    raters: str = "people",
    flagged: Callable[[str | None], bool] = lambda voter: False,
    purpose: Purpose = "train",
    about: Callable[[str], Mapping[str, Any]] = lambda target: {},
) -> Counter[str]:
    """Write the votes of people, or of one judge ("judge:NAME"), the oldest first; how many were left out, by reason.

    Void votes are left out everywhere; those of voters who are `flagged` where no voter is named any more, so from counts and
    preferences. purpose: of preference pairs, what their text must have been allowed for. about: licence and terms of a
    target. Raises HerdError for other words, and for Parquet where pyarrow is not installed.
    """
    for name, word, known in (("format", form, (*TYPES,)), ("purpose", purpose, get_args(Purpose))):
        if word not in known:
            raise HerdError(f"{name} must be one of {', '.join(known)}, not {word!r:.60}")
    if raters != "people" and not raters.startswith("judge:"):
        raise HerdError(f"raters must be people or judge:NAME, not {raters!r:.60}")
    left_out: Counter[str] = Counter()
    named = form in ("fastchat", "csv", "parquet")
    votes = _counting(store, raters, None if named else flagged, form not in ("csv", "counts"), left_out)
    if form == "preferences":
        frozen = store.frozen() if purpose == "train" else set()
        _write_lines(file, _preferences(votes, purpose, frozen, about, left_out))
    elif form == "counts":
        _write_counts(file, votes)
    else:
        write = {"fastchat": _write_lines, "csv": _write_csv, "parquet": _write_parquet}[form]
        write(file, map(_record, votes))
    return left_out


def _counting(
    store: Store,
    raters: str,
    flagged: Callable[[str | None], bool] | None,
    text: bool,
    left_out: Counter[str],
) -> Iterator[dict[str, Any]]:
    judge = raters.removeprefix("judge:") if raters != "people" else None
    for row in store.whole_votes(text=text):
        if row["rater"] != judge:
            continue
        if row["void"] or (flagged and flagged(row["voter"])):
            left_out[row["void"] or "flagged"] += 1
        else:
            yield row


def _record(row: Row) -> dict[str, Any]:
    """A vote as LMArena has it; `herd` has what has no place there. What is null is left out."""
    tags, source = row["tags"] or [], row["source"]
    if source == "import":
        source = (row["details"] or {}).get("source", source)
    own = {name: row[name] for name in ("rater", "prompt", "conversation", "tags", "reasons", "comment")}
    if row["rater"]:
        own |= {name: (row["details"] or {}).get(name) for name in ("first", "second", "lengths")}
    own |= {"source": source, "a_digest": row["a_digest"], "b_digest": row["b_digest"]}
    record = {
        "question_id": row["id"], "model_a": row["a_target"], "model_b": row["b_target"],
        "winner": WINNERS[row["outcome"]], "judge": row["rater"] or row["voter"], "turn": row["turns"],
        "anony": source in BLIND if source != "import" else None, "tstamp": row["created"],
        "language": next((tag.partition("/")[2] for tag in tags if tag.startswith("language/")), None),
        "is_code": "code" in tags, "conv_metadata": _metadata(row["style"]),
        "herd": {name: value for name, value in own.items() if value is not None},
    }  # fmt: skip
    if row.get("a_reply") and row.get("b_reply"):
        record |= {
            f"conversation_{side}": [*asked(row[f"{side}_request"] or {}), *_said(row, side)] for side in "ab"
        }
    return {name: value for name, value in record.items() if value is not None}


def _metadata(style: list[float] | None) -> dict[str, Any] | None:
    """As LMArena counts: a number for length, and counts by kind for the rest."""
    counts = zip(STYLE, style, strict=True) if style else ()
    return {name: count if "tokens" in name else {"all": count} for name, count in counts} or None


def _said(row: Row, side: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": row[f"{side}_reply"]}]


def _write_lines(file: BinaryIO, records: Iterable[Row]) -> None:
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_csv(file: BinaryIO, records: Iterable[Row]) -> None:
    """Without text, neither a conversation's nor a comment's."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    rows = csv.DictWriter(text, FLAT, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for record in records:
        own = {name: value for name, value in record["herd"].items() if name != "comment"}
        rows.writerow(_flat({**record, "herd": own}))
    text.detach()


def _flat(record: Row) -> dict[str, Any]:
    """Objects as JSON text."""
    return {k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v for k, v in record.items()}


def _write_parquet(file: BinaryIO, records: Iterable[Row]) -> None:
    pa = the_pyarrow()
    kinds = {"turn": pa.int32(), "anony": pa.bool_(), "is_code": pa.bool_(), "tstamp": pa.float64()}
    talk = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    columns = [(name, kinds.get(name, pa.string())) for name in FLAT]
    schema = pa.schema([*columns, ("conversation_a", talk), ("conversation_b", talk)])
    with pa.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rows = map(_flat, records)
        while group := list(islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _write_counts(file: BinaryIO, votes: Iterable[Row]) -> None:
    """{"A": {"B": [win, loss, tie, both bad]}}: the votes in which A stood at the left."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0] * 4))
    place = {outcome: at for at, outcome in enumerate(WINNERS)}
    for vote in votes:
        counts[vote["a_target"]][vote["b_target"]][place[vote["outcome"]]] += 1
    file.write(json.dumps(counts, ensure_ascii=False, indent=1).encode() + b"\n")


def _preferences(
    votes: Iterable[Row],
    purpose: Purpose,
    frozen: Collection[str],
    about: Callable[[str], Mapping[str, Any]],
    left_out: Counter[str],
) -> Iterator[dict[str, Any]]:
    """TRL's conversational form, with the vote, and who wrote the replies on what terms."""
    for vote in votes:
        if reason := _unfit(vote, purpose, frozen):
            left_out[reason] += 1
            continue
        good, bad = ("a", "b") if vote["outcome"] == "a" else ("b", "a")
        by = {}
        for side in "ab":
            name, known = vote[f"{side}_target"], about(vote[f"{side}_target"])
            terms = {key: known[key] for key in ("open", "licence", "terms") if key in known}
            by[side] = {"target": name, "digest": vote[f"{side}_digest"], **terms}
        yield {
            "prompt": _spoken(vote, "a"), "chosen": _said(vote, good), "rejected": _said(vote, bad),
            "conversation": vote["conversation"], "vote": vote["id"], "source": vote["source"], "rater": vote["rater"],
            "created": vote["created"], "purpose": purpose, "chosen_by": by[good], "rejected_by": by[bad],
        }  # fmt: skip


def _unfit(vote: Row, purpose: Purpose, frozen: Collection[str]) -> str | None:
    """Why a vote makes no pair, if so."""
    if vote["outcome"] in ("tie", "both_bad"):
        return str(vote["outcome"])
    a, b = vote["a_reply"], vote["b_reply"]
    if not a or not b or not (prompt := _spoken(vote, "a")):
        return "no text"
    if any(purpose not in (vote[f"{side}_use"] or ("evaluate",)) for side in "ab"):
        return f"use lacks {purpose}"
    if not a.strip() or not b.strip() or a == b:
        return "empty or the same"
    if prompt != _spoken(vote, "b"):
        return "different prompts"
    hashes = (prompt_hash(message["content"]) for message in prompt if message["role"] == "user")
    if vote["prompt"] in frozen or any(one in frozen for one in hashes):
        return "frozen"
    return None


def _spoken(vote: Row, side: str) -> list[dict[str, str]]:
    return spoken(asked(vote[f"{side}_request"] or {}))
