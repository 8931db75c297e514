"""Streams of chat completions."""

from __future__ import annotations

import json
from typing import Any

from herd.cli.probe.chat import judge_stop, stop_string
from herd.cli.probe.check import (
    Group,
    Refused,
    Server,
    Verdict,
    at,
    broken,
    finish_of,
    honoured,
    ignored,
    text_of,
    untested,
)
from herd.cli.probe.wire import Broken, quote

DONE = "[DONE]"
STREAM = Group("stream", "openai", "/v1/chat/completions")


def chunks_of(
    server: Server, path: str, body: dict[str, Any], needs_end: bool = False
) -> list[dict[str, Any]]:
    """The chunks of a whole stream of the OpenAI dialect. Raises Refused or Broken.

    `needs_end`: whether [DONE] must end it; one check asks that, so that a server without it is judged on by others.
    """
    events = [data for _, data in server.stream(path, body).events]
    if not events:
        raise Broken("the stream is empty")
    if needs_end and events[-1] != DONE:
        raise Broken(f"the stream does not end with [DONE] but with {quote(events[-1])}")
    chunks = [parsed(data) for data in events if data != DONE]
    for chunk in chunks:
        if "error" in chunk:
            raise Broken(f"an error in the stream: {quote(chunk['error'])}")
    return chunks


def parsed(data: str) -> dict[str, Any]:
    """An event's JSON object. Raises Broken."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Broken(f"an event is no JSON object: {quote(data)}")
    return value


def streamed(server: Server, said: Any, limit: int = 24, **fields: Any) -> list[dict[str, Any]]:
    return chunks_of(server, "/v1/chat/completions", server.chat_body(said, limit, **fields))


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [at(choice, "delta", kind=dict) for chunk in chunks for choice in at(chunk, "choices", kind=list)]


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks))


def finishes(chunks: list[dict[str, Any]]) -> list[str]:
    found = (choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"])
    return [reason for reason in found if reason is not None]


@STREAM.check("form", 120)
def form(server: Server) -> Verdict:
    body = server.chat_body("Tell me a story about a dog.", 24)
    chunks = chunks_of(server, "/v1/chat/completions", body, needs_end=True)
    if {at(chunk, "object", kind=str) for chunk in chunks} != {"chat.completion.chunk"}:
        return broken("an object is not chat.completion.chunk")
    if len({at(chunk, "id", kind=str) for chunk in chunks}) != 1:
        return broken("the chunks have different ids")
    found = deltas(chunks)
    if not found or found[0].get("role") != "assistant":
        return broken("the first delta has no role")
    if len(finishes(chunks)) != 1:
        return broken(f"finish_reason comes {len(finishes(chunks))} times")
    last = [chunk for chunk in chunks if chunk["choices"]][-1]
    if last["choices"][0].get("finish_reason") is None:
        return broken("text comes after finish_reason")
    return honoured(f"{len(chunks)} chunks, role first, {finishes(chunks)[0]}, [DONE]")


@STREAM.check("bit by bit", 120)
def bit_by_bit(server: Server) -> Verdict:
    parts = [
        delta for delta in deltas(streamed(server, "Tell me a story about a dog.")) if delta.get("content")
    ]
    if len(parts) < 2:
        return ignored(f"24 tokens came in {len(parts)} part")
    return honoured(f"{len(parts)} parts")


@STREAM.check("same text", 250)
def same_text(server: Server) -> Verdict:
    said = "Tell me about the 世界 and about 🐑 sheep."
    whole, chunks = server.chat(said), streamed(server, said)
    if text_of(whole) != text(chunks):
        return broken(f"whole {quote(text_of(whole), 50)!r}, streamed {quote(text(chunks), 50)!r}")
    if finishes(chunks) != [finish_of(whole)]:
        return broken(f"whole {finish_of(whole)}, streamed {finishes(chunks)}")
    return honoured("as without a stream")


@STREAM.check("usage", 250)
def usage(server: Server) -> Verdict:
    said = "Tell me a story about a dog."
    chunks = streamed(server, said, stream_options={"include_usage": True})
    found = [chunk for chunk in chunks if chunk.get("usage")]
    if not found:
        return ignored("no chunk has usage")
    if found != chunks[-1:] or found[0]["choices"]:
        return broken("usage is not in one last chunk without choices")
    whole = at(server.chat(said), "usage", kind=dict)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        if at(found[0], "usage", name, kind=int) != at(whole, name, kind=int):
            return broken(f"{name}: {found[0]['usage'][name]}, without a stream {whole[name]}")
    return honoured(f"{whole['total_tokens']} tokens, as without a stream")


@STREAM.check("stop", 250)
def stop(server: Server) -> Verdict:
    said = "Tell me a story about a dog."
    plain = text(streamed(server, said))
    end = stop_string(plain)
    if not end:
        return untested(f"the reply is too short to be stopped in: {quote(plain)!r}")
    chunks = streamed(server, said, stop=[end])
    return judge_stop(plain, end, text(chunks), ", ".join(finishes(chunks)))


@STREAM.check("errors", 60)
def errors(server: Server) -> Verdict:
    """A wrong field is refused with a status of its own, not inside a stream of status 200."""
    try:
        chunks = server.stream("/v1/chat/completions", server.chat_body("Hello.", 4, temperature="hot"))
    except Refused as error:
        return honoured(str(error))
    if any('"error"' in data for _, data in chunks.events):
        return broken("200, and the error inside the stream")
    return ignored('temperature "hot" is taken')
