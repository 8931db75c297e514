"""The fake upstream speaks the dialects as their authors' own clients do, or its faults would prove nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai

from .upstream import TEXT, running
from .upstream_replies import MODELS, PROMPT_TOKENS, VECTOR

HELLO: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}


def test_openais_client_understands_it() -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]

    async def main() -> None:
        async with running() as upstream, openai.AsyncOpenAI(base_url=upstream.url, api_key="k") as client:
            whole = await client.chat.completions.create(model="tools", messages=HELLO, tools=tools)
            assert whole.usage is not None and whole.usage.prompt_tokens == PROMPT_TOKENS
            assert whole.choices[0].message.content == "".join(TEXT)
            async with client.chat.completions.stream(model="tools", messages=HELLO, tools=tools) as stream:
                final = await stream.get_final_completion()
            for reply in (whole, final):
                (call,) = reply.choices[0].message.tool_calls or ()
                assert call.type == "function" and call.function.arguments == '{"city": "Oslo"}'
                assert reply.choices[0].finish_reason == "tool_calls"
            text = await client.completions.create(model="ok", prompt="hi", n=2)
            assert [choice.text for choice in text.choices] == ["".join(TEXT)] * 2
            vectors = await client.embeddings.create(model="ok", input=["a", "b"], encoding_format="float")
            assert [item.embedding for item in vectors.data] == [VECTOR] * 2
            assert [model.id async for model in client.models.list()] == MODELS
            try:
                await client.chat.completions.create(model="echo_in_body", messages=HELLO, stream=True)
            except openai.APIError as error:
                assert "wrong key" in str(error)

    asyncio.run(main())


def test_anthropics_client_understands_it() -> None:
    tools: list[Any] = [{"name": "weather", "input_schema": SCHEMA}]

    async def main() -> None:
        url = "http://127.0.0.1:"
        async with running() as upstream:
            async with anthropic.AsyncAnthropic(base_url=f"{url}{upstream.port}", api_key="k") as client:
                asked: Any = {"model": "tools", "max_tokens": 9, "messages": HELLO, "tools": tools}
                whole = await client.messages.create(**asked)
                async with client.messages.stream(**asked) as stream:
                    final = await stream.get_final_message()
                for reply in (whole, final):
                    text, call = reply.content
                    assert text.type == "text" and text.text == "".join(TEXT)
                    assert call.type == "tool_use" and call.input == {"city": "Oslo"}
                    assert reply.stop_reason == "tool_use"
                    assert reply.usage.input_tokens == PROMPT_TOKENS
                    assert reply.usage.output_tokens == len(TEXT)
                counted = await client.messages.count_tokens(model="ok", messages=HELLO)
                assert counted.input_tokens == PROMPT_TOKENS
                assert [model.id async for model in client.models.list()] == MODELS

    asyncio.run(main())
