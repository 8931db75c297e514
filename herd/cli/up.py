"""`herd up` and `herd serve`: the server in this terminal, or as a service."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from herd.server.settings import Settings


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path, file_okay=False)
    command = click.option("--home", type=folder, help="Where models and data live.")(command)
    command = click.option("--port", type=int, help="Default 8000; 0 takes a free one.")(command)
    address = "Address to listen on; another than 127.0.0.1 needs HERD_API_KEY."
    return click.option("--host", help=address)(command)


@click.command()
@_options
def up(**given: Any) -> None:
    """Start Herd: engine, API and pages on this machine."""

    def greet(settings: Settings) -> None:
        key = "$HERD_API_KEY" if settings.api_key else "herd"
        click.echo(f"Herd is up      {settings.url}")
        click.echo(f'OpenAI clients  base_url="{settings.url}/v1", api_key="{key}"')
        click.echo("In a terminal   herd chat")
        click.echo("Ctrl-C stops it.")

    _serve(given, greet, access=False)


@click.command()
@_options
def serve(**given: Any) -> None:
    """Start Herd as a service: one line a request on standard error, no text of prompts or replies."""
    _serve(given, lambda settings: click.echo(f"listening on {settings.url}", err=True), access=True)


def _serve(given: dict[str, Any], started: Callable[[Settings], None], *, access: bool) -> None:
    from herd.server.serve import serve

    settings = Settings.from_environment(**given)
    serve(settings, say=partial(click.echo, err=True), started=started, access=access)
