"""A helpdesk in the terminal, with the `openai` package: it answers each line of input, and then files a ticket.

It knows one address and one name (OPENAI_BASE_URL, HELPDESK_MODEL), no vendor. Which model stands behind the name is said by
the route in Herd's herd.toml (helpdesk.toml is one): this file stays as it is.
"""

import json
import os
import sys

from openai import OpenAI

MODEL = os.environ.get("HELPDESK_MODEL", "cria")
TICKET = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": ["order", "return", "product", "other"]},
        "urgent": {"type": "boolean"},
    },
    "required": ["topic", "urgent"],
    "additionalProperties": False,
}

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
talk = [{"role": "system", "content": "You help the customers of a shop for garden tools. Be brief."}]


def answer() -> str:
    """Print the reply to the talk as it comes."""
    said = ""
    with client.chat.completions.create(model=MODEL, messages=talk, max_tokens=80, stream=True) as stream:
        for chunk in stream:
            text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            print(text, end="", flush=True)
            said += text
    print()
    return said


def ticket(question: str) -> dict:
    """What the question is about, as an object of TICKET."""
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"File this question of a customer: {question}"}],
        max_tokens=300,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "ticket", "schema": TICKET, "strict": True},
        },
    )
    return json.loads(reply.choices[0].message.content)


for line in sys.stdin:
    if question := line.strip():
        talk.append({"role": "user", "content": question})
        talk.append({"role": "assistant", "content": answer()})
        filed = ticket(question)
        print(f"[{filed['topic']}{', urgent' if filed['urgent'] else ''}]")
