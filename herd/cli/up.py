"""`herd up` and `herd serve`: the server in this terminal, or as a service."""

import os
import signal
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from herd.server.settings import Settings


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    folder, file = click.Path(path_type=Path, file_okay=False), click.Path(path_type=Path, dir_okay=False)
    command = click.option("--config", type=file, help="The herd.toml; else that of the home.")(command)
    command = click.option("--home", type=folder, help="Where models and data live.")(command)
    command = click.option("--port", type=int, help="Default 8000; 0 takes a free one.")(command)
    address = "Address to listen on; another than 127.0.0.1 needs HERD_API_KEY."
    return click.option("--host", help=address)(command)


@click.command()
@_options
def up(**given: Any) -> None:
    """Start Herd: gateway, engine, API and pages on this machine."""

    def greet(settings: Settings) -> None:
        from herd.gateway.config import load

        key = "$HERD_API_KEY" if settings.api_key else "herd"
        click.echo(f"Herd is up      {settings.url}")
        click.echo(f'OpenAI clients  base_url="{settings.url}/v1", api_key="{key}"')
        if providers := load(settings.config_file, os.environ).providers:
            click.echo(f"Proxies         {', '.join(sorted(providers))}: name their models as before")
        if find_spec("torch"):
            click.echo("In a terminal   herd chat")
        else:
            click.echo('No models here  pip install "openherd[local]" adds them')
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server listens, there is nothing to end in order
    serve(settings, say=partial(click.echo, err=True), started=started, access=access)
