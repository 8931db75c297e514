"""`herd import`: what was logged elsewhere, so that evidence exists on the first day."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from herd.cli.client import Server, api
from herd.cli.output import FILE, emit, json_option, note
from herd.errors import HerdError
from herd.server.settings import MAX_BODY

PATH = "/api/generations/import"
MAX_LINE = MAX_BODY // 2  # bytes as JSON in JSON, which grows when it is sent
BATCH = MAX_BODY // 4  # bytes of lines in one request
SHOWN = 20  # problems of a file that are named
FORMATS = "auto, openai, litellm, langfuse or herd (auto: each line as it looks)."


@click.group("import")
def import_() -> None:
    """Bring in what was logged elsewhere."""


@import_.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--format", "form", default="auto", help=FORMATS)
@click.option("--route", help="Count all as this route's; else the models' names are their routes.")
@click.option(
    "--use", multiple=True, help="What the text may be used for: evaluate (if nothing is said), train."
)
@json_option
def logs(files: tuple[Path, ...], form: str, route: str | None, use: tuple[str, ...]) -> int:
    """Keep the requests and replies in FILES as generations.

    JSON Lines or a JSON array, perhaps with gzip: OpenAI's requests and responses, LiteLLM's spend logs, Langfuse's
    exports, Herd's own. The same file again adds nothing. The status is 1 if a line was bad; the others are kept.
    """
    options = {"format": form, "route": route, "use": list(use) or None}
    with api(write=True) as server:
        reports = [{"file": str(file), **_import(server, file, options)} for file in files]
    for report in reports:
        for problem in report["problems"][:SHOWN]:
            note(f"{report['file']}: line {problem['line']}: {problem['reason']}")
    emit(reports, lambda: click.echo("\n".join(map(_said, reports))))
    return 1 if any(report["bad"] for report in reports) else 0


def _import(server: Server, file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What became of all lines of a file."""
    from herd.gateway.imports import entries

    counts, skipped = Counter(dict.fromkeys(("lines", "kept", "known", "bad"), 0)), Counter[str]()
    problems: list[dict[str, Any]] = []
    try:
        with file.open("rb") as stream:
            for lines, problem in _batches(entries(stream)):
                if lines:
                    part = server.call("POST", PATH, {**options, "lines": lines}, timeout=600)
                    for one in part.pop("problems"):
                        problems.append({**one, "line": counts["lines"] + one["line"]})
                    skipped.update(part.pop("skipped"))
                    counts.update(part)
                if problem:
                    counts.update(lines=1, bad=1)
                    problems.append({"line": counts["lines"], "reason": problem})
    except (OSError, EOFError) as error:
        raise HerdError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    return {**counts, "problems": problems, "skipped": dict(skipped)}


def _batches(lines: Iterable[str | bytes]) -> Iterator[tuple[list[str], str | None]]:
    """Lines together as far as one request takes them, and what is wrong with the one after them, if that cannot go."""
    batch: list[str] = []
    size = 0
    for line in lines:
        problem, length = None, 0
        try:
            text = line.decode() if isinstance(line, bytes) else line
            length = len(json.dumps(text, ensure_ascii=False).encode())
            problem = f"longer than {MAX_LINE >> 20} MiB" if length > MAX_LINE else None
        except UnicodeError:
            problem = "not UTF-8"
        if problem or size + length > BATCH:
            yield batch, problem
            batch, size = [], 0
        if not problem:
            batch.append(text)
            size += length
    yield batch, None


def _said(report: dict[str, Any]) -> str:
    parts = [f"{report['kept']:,} kept"]
    parts += [f"{report['known']:,} known already"] if report["known"] else []
    parts += [f"{count:,} {kind} left out" for kind, count in report["skipped"].items()]
    parts += [f"{report['bad']:,} bad"] if report["bad"] else []
    return f"{report['file']}: {', '.join(parts)}"
