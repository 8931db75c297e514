"""`herd chat`: a conversation in the terminal."""

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
    given: dict[str, Any] = {key: value for key, value in sampling.items() if value is not None}
    person = sys.stdin.isatty()
    if server := Server.running():
        headers = {"X-Herd-Conversation": str(uuid.uuid4())}
        body = {"model": name, **given}
        talk(lambda messages: server.chat({**body, "messages": messages}, headers), system, person)
    else:
        import herd

        model = herd.load(name)
        talk(lambda messages: model.chat(messages, stream=True, **given), system, person)


def talk(reply: Reply, system: str | None, person: bool) -> None:
    """Read lines and answer them until the input ends. `person`: whether somebody sits at a terminal."""
    history: list[Message] = []
    if person:
        import readline  # noqa: F401  (gives input() its history and editing)

        click.echo(COMMANDS, err=True)
    while True:
        try:
            line = input("> " if person else "").strip()
        except EOFError:
            return
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
            asked = [*history, {"role": "user", "content": line}]
            lead = [{"role": "system", "content": system}] if system else []
            try:
                answer = _print_reply(reply([*lead, *asked]))
            except HerdError as error:
                if not person:
                    raise
                click.echo(str(error), err=True)
            else:
                history = [*asked, {"role": "assistant", "content": answer}]


def _print_reply(stream: Generator[str, None, None]) -> str:
    """Print a reply as it comes, and return it: all of it, or what was said when Ctrl-C stopped it."""
    parts: list[str] = []
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
