"""A provider that costs nothing: fixed chat completions of OpenAI's dialect, raw asyncio. Part of bench/gateway.py.

python bench/upstream.py PORT GAP     (GAP: milliseconds between the chunks of a stream)
"""

import asyncio
import json
import sys

FIRST, LAST = "Alpha", "omega"
WORDS = [FIRST, *(f" word{i:02d}" for i in range(30)), f" {LAST}"]
USAGE = {"prompt_tokens": 180, "completion_tokens": len(WORDS), "total_tokens": 180 + len(WORDS)}
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{}\r\n\r\n"


def _chunk(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mock",
        "choices": [choice],
    }
    return _framed(f"data: {json.dumps(data | more)}\n\n")


def _framed(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [choice],
    }
    return _reply(data | {"usage": USAGE})


def _reply(data: dict[str, object]) -> bytes:
    body = json.dumps(data)
    return (HEAD.format("application/json", f"Content-Length: {len(body)}") + body).encode()


WHOLE = _whole()
STREAM = [
    HEAD.format("text/event-stream", "Transfer-Encoding: chunked").encode()
    + _chunk({"role": "assistant", "content": ""}),
    *(_chunk({"content": word}) for word in WORDS),
    _chunk({}, "stop"),
]
COUNTED = _chunk({}, choices=[], usage=USAGE)
END = _framed("data: [DONE]\n\n") + b"0\r\n\r\n"
MODELS = _reply(
    {"object": "list", "data": [{"id": "mock", "object": "model", "created": 1, "owned_by": "bench"}]}
)


class Upstream(asyncio.Protocol):
    """Answers one request after the other on a connection. It trusts its callers: no limits, no errors."""

    gap = 0.0  # seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length or 0):
            return
        self.data = b""
        if head.startswith(b"GET"):
            self.transport.write(MODELS)
            return
        asked = json.loads(body)
        if asked.get("stream"):
            usage = (asked.get("stream_options") or {}).get("include_usage")
            self.send([*STREAM, *([COUNTED] if usage else []), END], 0)
        else:
            self.transport.write(WHOLE)

    def send(self, pieces: list[bytes], i: int) -> None:
        self.transport.write(pieces[i])
        if i + 1 < len(pieces):
            asyncio.get_running_loop().call_later(self.gap, self.send, pieces, i + 1)


async def main(port: int, gap: float) -> None:
    Upstream.gap = gap / 1000
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=512)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
