"""Writes the table of API fields in docs/serving.md from the protocol's own: python docs/fields.py"""

import json
from pathlib import Path

from herd.protocol.openai import FIELDS, Field

PAGE = Path(__file__).with_name("serving.md")
BEGIN, END = "<!-- fields: made by docs/fields.py -->\n", "<!-- end of fields -->\n"
ORDER = ("honoured", "recorded", "refused")


def table() -> str:
    lines = ["| field | chat completions | completions |", "|---|---|---|"]
    names = {name: field for dialect in FIELDS.values() for name, field in dialect.items()}
    for name in sorted(names, key=lambda n: (ORDER.index(names[n].treatment), n)):
        cells = [_cell(FIELDS[dialect].get(name)) for dialect in ("chat", "completion")]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(field: Field | None) -> str:
    if field is None:
        return "unknown"
    if not isinstance(field.accepts, tuple) or not field.accepts:
        return field.treatment
    values = ", ".join(f"`{json.dumps(value)}`" for value in field.accepts)
    return f"{field.treatment} {'but for' if field.treatment == 'refused' else 'if'} {values}"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
