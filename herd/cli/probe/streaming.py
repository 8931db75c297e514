"""Streams of chat completions."""

from __future__ import annotations

from typing import Any

from herd.cli.probe.check import Group, Server
from herd.cli.probe.finding import Broken, Ignored, Refused
from herd.cli.probe.reply import Chat, at
from herd.cli.probe.shared import chunks_of, same_text, stops

STREAM = Group("stream", "openai", Chat.path)
DOG = "Tell me a story about a dog."
Chunks = list[dict[str, Any]]


def deltas(chunks: Chunks) -> Chunks:
    return [at(choice, "delta", kind=dict) for chunk in chunks for choice in at(chunk, "choices", kind=list)]


def text(chunks: Chunks) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks))


def finishes(chunks: Chunks) -> list[str]:
    found = (choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"])
    return [reason for reason in found if reason is not None]


@STREAM.check("form", 120)
def form(server: Server) -> str:
    chunks = chunks_of(server, Chat, DOG, needs_end=True)
    kinds = {at(chunk, "object", kind=str) for chunk in chunks}
    Broken.when(kinds != {"chat.completion.chunk"}, "an object is not chat.completion.chunk")
    ids = {at(chunk, "id", kind=str) for chunk in chunks}
    Broken.when(len(ids) != 1, "the chunks have different ids")
    found, ends = deltas(chunks), finishes(chunks)
    Broken.when(not found or found[0].get("role") != "assistant", "the first delta has no role")
    Broken.when(len(ends) != 1, f"finish_reason comes {len(ends)} times")
    last = [chunk for chunk in chunks if chunk["choices"]][-1]
    Broken.when(last["choices"][0].get("finish_reason") is None, "text comes after finish_reason")
    return f"{len(chunks)} chunks, role first, {ends[0]}, [DONE]"


@STREAM.check("bit by bit", 120)
def bit_by_bit(server: Server) -> str:
    parts = [delta for delta in deltas(chunks_of(server, Chat, DOG)) if delta.get("content")]
    Ignored.when(len(parts) < 2, f"24 tokens came in {len(parts)} part")
    return f"{len(parts)} parts"


@STREAM.check("same text", 250)
def same(server: Server) -> str:
    said = "Tell me about the 世界 and about 🐑 sheep."
    whole, chunks = server.chat(said), chunks_of(server, Chat, said)
    same_text(whole.text, text(chunks))
    ends = finishes(chunks)
    Broken.when(ends != [whole.finish], f"whole {whole.finish}, streamed {ends}")
    return "as without a stream"


@STREAM.check("usage", 250)
def usage(server: Server) -> str:
    chunks = chunks_of(server, Chat, DOG, stream_options={"include_usage": True})
    found = [chunk for chunk in chunks if chunk.get("usage")]
    Ignored.when(not found, "no chunk has usage")
    alone = found == chunks[-1:] and not found[0]["choices"]
    Broken.when(not alone, "usage is not in one last chunk without choices")
    whole = server.chat(DOG).at("usage", kind=dict)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        streamed, right = at(found[0], "usage", name, kind=int), at(whole, name, kind=int)
        Broken.when(streamed != right, f"{name}: {streamed}, without a stream {right}")
    return f"{whole['total_tokens']} tokens, as without a stream"


@STREAM.check("stop", 250)
def stop(server: Server) -> str:
    def again(end: str) -> tuple[str, str]:
        chunks = chunks_of(server, Chat, DOG, stop=[end])
        return text(chunks), ", ".join(finishes(chunks))

    return stops(text(chunks_of(server, Chat, DOG)), again)


@STREAM.check("errors", 60)
def errors(server: Server) -> str:
    """A wrong field is refused with a status of its own, not inside a stream of status 200."""
    try:
        chunks = server.stream(Chat, "Hello.", 4, temperature="hot")
    except Refused as error:
        return str(error)
    inside = any('"error"' in data for _, data in chunks.events)
    Broken.when(inside, "200, and the error inside the stream")
    raise Ignored('temperature "hot" is taken')
