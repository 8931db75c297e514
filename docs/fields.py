"""Writes the tables of API fields in docs/api.md from the protocol's own: python docs/fields.py"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from herd.protocol import anthropic, openai, responses
from herd.protocol.fields import Field

PAGE = Path(__file__).with_name("api.md")
BEGIN, END = "<!-- fields: made by docs/fields.py -->\n", "<!-- end of fields -->\n"
ORDER = ("honoured", "recorded", "refused")
Tables = Mapping[str, Mapping[str, Field]]
DIALECTS: dict[str, tuple[Tables, Tables, dict[str, str]]] = {
    "OpenAI": (
        openai.FIELDS,
        openai.PARTS,
        {"chat": "chat completions", "completion": "completions", "embedding": "embeddings"},
    ),
    "OpenAI Responses": (
        responses.FIELDS,
        responses.PARTS,
        {"response": "responses", "count": "responses/input_tokens"},
    ),
    "Anthropic Messages": (
        anthropic.FIELDS,
        anthropic.PARTS,
        {"message": "messages", "count": "messages/count_tokens"},
    ),
}


def tables() -> Iterator[str]:
    for title, (bodies, parts, columns) in DIALECTS.items():
        yield f"\n## {title}\n"
        yield f"| field | {' | '.join(columns.values())} |"
        yield f"|---|{'---|' * len(columns)}"
        names = {name: field for table in bodies.values() for name, field in table.items()}
        for name in sorted(names, key=lambda n: (ORDER.index(names[n].treatment), n)):
            cells = [_cell(bodies[column].get(name)) for column in columns]
            yield f"| `{name}` | {' | '.join(cells)} |"
        if parts:
            yield "\n| inside a body | honoured | of few values, recorded or refused |\n|---|---|---|"
        for part, table in parts.items():
            taken = ", ".join(f"`{name}`" for name, field in table.items() if field == Field("honoured"))
            others = [f"`{n}` {_cell(field)}" for n, field in table.items() if field != Field("honoured")]
            yield f"| {part} | {taken} | {'; '.join(others)} |"


def _cell(field: Field | None) -> str:
    if field is None:
        return "unknown"
    if not isinstance(field.accepts, tuple) or not field.accepts:
        return field.treatment
    values = ", ".join(f"`{json.dumps(value)}`" for value in field.accepts)
    if field.treatment == "honoured":
        return f"only {values}"
    return f"{field.treatment} {'but for' if field.treatment == 'refused' else 'if'} {values}"


def page(text: str) -> str:
    """The page with the tables in their place."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(tables()) + "\n\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
