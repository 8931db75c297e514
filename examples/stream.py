"""Stream a reply with the `openai` package. Herd must be up; OPENAI_BASE_URL names another address."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("HERD_API_KEY", "none"),
)
stream = client.chat.completions.create(
    model="cria",
    messages=[{"role": "user", "content": "Tell me a story about a dog."}],
    max_tokens=80,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n({chunk.usage.completion_tokens} tokens)")
