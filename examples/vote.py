"""Ask twice, say which answer is better, and have the vote kept. Standard library only; Herd must be up."""

import json
import os
from urllib.request import Request, urlopen

BASE = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1").removesuffix("/v1")


def post(path: str, body: dict) -> dict:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("HERD_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    with urlopen(Request(BASE + path, json.dumps(body).encode(), headers)) as response:
        return json.load(response)


ask = {"model": "cria", "messages": [{"role": "user", "content": "What is the moon?"}], "max_tokens": 60}
replies = {name: post("/v1/chat/completions", ask | {"seed": seed}) for seed, name in enumerate("ab")}
for name, reply in replies.items():
    print(f"{name}: {reply['choices'][0]['message']['content']}\n")

outcomes = {"a": "a", "b": "b", "=": "tie", "x": "both_bad"}
outcome = outcomes[input("Better? a, b, = (equal) or x (neither): ").strip()]
vote = post(
    "/api/votes", {**{n: r["id"] for n, r in replies.items()}, "outcome": outcome, "source": "battle"}
)
print("kept as", vote["id"])
