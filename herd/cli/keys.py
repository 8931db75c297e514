"""`herd keys`: who may call, how much, and how it ends."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import click

from herd.cli.client import api, ask
from herd.cli.output import emit, facts, json_option, note, table, when
from herd.errors import HerdError

LIMIT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]+)/([a-z]+)")
PICO = 10**12  # the API counts money in 10⁻¹² dollars


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def keys(context: click.Context) -> None:
    """List, make, show or revoke the keys of applications."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@keys.command("list")
@json_option
def list_() -> None:
    """List the keys; none is shown whole."""
    found: list[dict[str, Any]] = []
    with api() as server:
        page = {"more": True}
        while page["more"]:
            before = f"&before={found[-1]['created']!r}" if found else ""
            page = server.call("GET", f"/api/keys?limit=200{before}")
            found += page["data"]
    rows = [
        (key["id"], key["application"], ", ".join(sorted(key["scopes"])), "; ".join(_spend(key)), _state(key))
        for key in found
    ]
    none = "no keys yet; `herd keys create NAME --scope use:ROUTE` makes one"
    emit(found, (lambda: table(("key", "application", "scopes", "spent", ""), rows)) if found else none)


@keys.command()
@click.argument("application")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="use:ROUTE, use:*, vote, read or admin."
)
@click.option(
    "--limit", "limits", multiple=True, help="As in 5dollars/month, 60requests/minute, 1000000tokens/day."
)
@click.option("--days", "expires_days", type=float, help="How long it holds; for ever if not given.")
@click.option(
    "--keep", type=click.Choice(["none", "metadata", "text"]), help="What is kept, in place of the route's."
)
@click.option("--use", multiple=True, help="evaluate or train: what kept text may be used for.")
@json_option
def create(**given: Any) -> None:
    """Make a key for APPLICATION. Its secret is shown this once."""
    changed = {"limits": [_limit(text) for text in given["limits"]], "use": given["use"] or None}
    made = ask("POST", "/api/keys", given | changed)
    emit(made, lambda: click.echo(made["secret"]))
    note(f"this is {made['id']}; keep it now, since only its hash is kept here")


@keys.command()
@click.argument("id")
@json_option
def show(id: str) -> None:
    """Show the key ID and what it has spent."""
    key = ask("GET", f"/api/keys/{_word(id)}")
    times = {name: when(key[name]) for name in ("created", "expires", "revoked") if key[name]}
    shown = {
        name: ", ".join(sorted(v)) if isinstance(v, list) else v
        for name, v in key.items()
        if name not in ("limits", "spend")
    }
    emit(key, lambda: facts(shown | times | {"spent": "; ".join(_spend(key))}))


@keys.command()
@click.argument("id")
@json_option
def revoke(id: str) -> None:
    """Revoke the key ID: from now on it opens nothing, and what it runs ends."""
    key = ask("POST", f"/api/keys/{_word(id)}/revoke")
    emit(key, f"{id} ({key['application']}) is revoked")


def _word(id: str) -> str:
    if not re.fullmatch(r"[\w-]+", id, re.ASCII):
        raise HerdError(f"{id!r} is no key's id; `herd keys` lists them")
    return id


def _limit(text: str) -> dict[str, Any]:
    match = LIMIT.fullmatch(text)
    if match is None:
        raise HerdError(
            f"--limit {text!r} is not understood; write it as in 5dollars/month or 60requests/minute"
        )
    amount, unit, period = match.groups()
    whole = int(Decimal(amount) * (PICO if unit == "dollars" else 1))
    return {"unit": unit, "amount": whole, "period": period}


def _spend(key: dict[str, Any]) -> list[str]:
    """As in "2.5 of 5 dollars (month)"."""
    said = []
    for one in key["spend"]:
        by = PICO if one["unit"] == "dollars" else 1
        spent, amount = (Decimal(one[name]) / by for name in ("spent", "amount"))
        said.append(f"{spent:,f} of {amount:,f} {one['unit']} ({one['period']})")
    return said


def _state(key: dict[str, Any]) -> str:
    if key["revoked"]:
        return f"revoked {when(key['revoked'])}"
    return f"until {when(key['expires'])}" if key["expires"] else ""
