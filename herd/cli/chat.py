"""`herd chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Generator
from typing import Any

import click

from herd.cli.client import Server
from herd.errors import HerdError

Message = dict[str, str]
Reply = Callable[[list[Message]], Generator[str, None, None]]
COMMANDS = "/system TEXT sets the system prompt, /new begins again, /quit leaves; Ctrl-C stops a reply"


@click.command()
@click.argument("name", default="cria")
@click.option("--system", help="System prompt.")
@click.option("--temperature", type=float, help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=int, help="Longest reply, in tokens.")
@click.option("--seed", type=int, help="The same seed gives the same reply.")
def chat(name: str, system: str | None, **sampling: float | None) -> None:
    """Talk to the model or route NAME (default: cria).

    A running server answers if there is one, and keeps the conversation; else the model is loaded here.
    """
    said = {key: value for key, value in sampling.items() if value is not None}
    server = Server.running()
    reply = _from_server(server, name, said) if server else _in_process(name, said)
    talk(reply, system, sys.stdin.isatty())


def _from_server(server: Server, name: str, sampling: dict[str, Any]) -> Reply:
    headers = {"X-Herd-Conversation": str(uuid.uuid4())}
    return lambda messages: server.chat({"model": name, "messages": messages, **sampling}, headers)


def _in_process(name: str, sampling: dict[str, Any]) -> Reply:
    import herd

    model = herd.load(name)
    return lambda messages: model.chat(messages, stream=True, **sampling)


def talk(reply: Reply, system: str | None, person: bool) -> None:
    """Read lines and answer them until the input ends. `person`: whether somebody sits at a terminal."""
    history: list[Message] = []
    if person:
        import readline  # noqa: F401  (gives input() its history and editing)

        click.echo(COMMANDS, err=True)
    while (line := _read(person)) is not None:
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return
        if word == "/new":
            history.clear()
        elif word == "/system":
            system = rest.strip() or None
        elif word.startswith("/"):
            click.echo(f"no command {word}; {COMMANDS}", err=True)
        elif line:
            history.append({"role": "user", "content": line})
            try:
                answer = _print_reply(reply, _with_system(system, history))
            except HerdError as error:
                if not person:
                    raise
                click.echo(str(error), err=True)
                history.pop()
            else:
                history.append({"role": "assistant", "content": answer})


def _read(person: bool) -> str | None:
    try:
        return input("> " if person else "").strip()
    except EOFError:
        return None


def _with_system(system: str | None, history: list[Message]) -> list[Message]:
    return [{"role": "system", "content": system}, *history] if system else list(history)


def _print_reply(reply: Reply, messages: list[Message]) -> str:
    """Print a reply as it comes, and return it: all of it, or what was said when Ctrl-C stopped it."""
    parts: list[str] = []
    stream = reply(messages)
    try:
        for part in stream:
            parts.append(part)
            click.echo(part, nl=False)
        click.echo()
    except KeyboardInterrupt:
        click.echo(" … stopped")
    finally:
        stream.close()
    return "".join(parts)
