"""`herd up` and `herd serve`: the server in this terminal, or as a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from herd.server.settings import Settings


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--home", type=click.Path(path_type=Path, file_okay=False), help="Where models and data live."
        ),
        click.option("--port", type=int, help="Default 8000; 0 takes a free one."),
        click.option("--host", help="Address to listen on; another than 127.0.0.1 needs HERD_API_KEY."),
    ):
        command = option(command)
    return command


@click.command()
@_options
def up(host: str | None, port: int | None, home: Path | None) -> None:
    """Start Herd: engine, API and pages on this machine."""

    def greet(settings: Settings) -> None:
        click.echo(f"Herd is up      {settings.url}")
        click.echo(f'OpenAI clients  base_url="{settings.url}/v1", api_key="{_key_hint(settings)}"')
        click.echo("In a terminal   herd chat")
        click.echo("Ctrl-C stops it.")

    _serve(host, port, home, greet, access=False)


@click.command()
@_options
def serve(host: str | None, port: int | None, home: Path | None) -> None:
    """Start Herd as a service: one line a request on standard error, no text of prompts or replies."""
    _serve(
        host, port, home, lambda settings: click.echo(f"listening on {settings.url}", err=True), access=True
    )


def _serve(
    host: str | None,
    port: int | None,
    home: Path | None,
    started: Callable[[Settings], None],
    *,
    access: bool,
) -> None:
    from herd.server.serve import serve as run
    from herd.server.settings import Settings

    settings = Settings.from_environment(home=home, host=host, port=port)
    run(settings, say=lambda text: click.echo(text, err=True), started=started, access=access)


def _key_hint(settings: Settings) -> str:
    return "$HERD_API_KEY" if settings.api_key else "herd"
