"""`herd pull`: a model from the Hugging Face hub into the registry."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from herd.cli.client import Server
from herd.cli.output import console, emit, json_option
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.registry import Registry

# Weights as plain tensors, and text. Nothing else is ever asked for: no pickles, no code.
ALLOWED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md", "LICENSE*"]


@click.command()
@click.argument("repo")
@click.option("--name", help="What to call it here (default: the repository's own name).")
@json_option
def pull(repo: str, name: str | None, as_json: bool) -> None:
    """Fetch REPO (owner/name, or owner/name@revision) from the Hugging Face hub.

    A broken connection is taken up where it broke, and finished files are not fetched again. HF_TOKEN, HF_HOME,
    HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
    """
    from herd.registry import Registry, lineage
    from herd.registry.home import home
    from herd.registry.registry import NAME

    repo, _, revision = repo.partition("@")
    name = name or default_name(repo)
    if not NAME.fullmatch(name):
        raise HerdError(f"{name!r} cannot be a model's name; give one of a-z, 0-9, '.', '_', '-' with --name")
    snapshot = _fetch(repo, revision or None)
    commit, registry = snapshot.name, Registry(home())
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder)
        for file in sorted(snapshot.iterdir()):  # an older fetch by another program may have left more there
            if any(file.match(pattern) for pattern in ALLOWED):
                (chosen / file.name).symlink_to(file.resolve())
        kind, base = _check(repo, chosen, registry)
        card = chosen / "README.md"
        entry = registry.add(
            chosen,
            name,
            kind=kind,
            parents=[],
            licence=_licence(card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""),
            description=f"{repo} at {commit[:12]}",
            metrics={},
            base=base,
        )
    lineage.record(
        home(),
        command="pull",
        inputs=[{"repo": repo, "revision": commit}],
        outputs=[{"kind": kind, "name": entry.ref, "digest": entry.digest}],
        parents=[],
        config={},
        seed=None,
        device=None,
        metrics={},
    )
    if server := Server.running():
        server.call("POST", "/api/reload")
    data = {"ref": entry.ref, "digest": entry.digest, "repo": repo, "revision": commit}
    emit(
        data, as_json, lambda: console().print(f"{repo} is here as {entry.ref}; try `herd chat {entry.name}`")
    )


def _fetch(repo: str, revision: str | None) -> Path:
    """The hub's snapshot directory of a revision, its name the commit."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    again = "run the same command again: what is finished is kept"
    try:
        # The small file first: what cannot run here is refused before its weights are fetched.
        try:
            config = Path(hf_hub_download(repo, "config.json", revision=revision))
        except errors.RemoteEntryNotFoundError:
            pass  # an adapter has none
        else:
            _supported(repo, config)
            revision = config.parent.name
        return Path(snapshot_download(repo, revision=revision, allow_patterns=ALLOWED, ignore_patterns="*/*"))
    except errors.HFValidationError:
        raise HerdError(f"{repo!r} is not a repository's name; write owner/name") from None
    except errors.GatedRepoError:
        raise HerdError(f"{repo} is gated: accept its terms on its page, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise HerdError(f"the hub has no model {repo} (if it is private, set HF_TOKEN)") from None
    except errors.RevisionNotFoundError:
        raise HerdError(f"{repo} has no revision {revision!r}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise HerdError(f"{repo} is not in the local cache and the hub cannot be reached; {again}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise HerdError(f"{repo}: the download stopped ({' '.join(str(error).split())}); {again}") from None


def _supported(repo: str, config: Path) -> None:
    from herd.model.config import Config

    try:
        Config.from_hf(json.loads(config.read_text(encoding="utf-8")))
    except ValueError as error:
        raise HerdError(f"{repo}: config.json is not valid JSON ({error})") from None
    except HerdError as error:
        raise HerdError(f"{repo}: {error}") from None


def _check(repo: str, folder: Path, registry: Registry) -> tuple[str, str | None]:
    """Kind, and for an adapter the reference of its base here."""
    if not any(folder.glob("*.safetensors")):
        raise HerdError(
            f"{repo} has no safetensors weights; Herd reads no other form, since pickles can run code"
        )
    if not (folder / "adapter_config.json").is_file():
        return "model", None
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        raise HerdError(f"{repo}: adapter_config.json does not name its base model") from None
    try:
        return "adapter", registry.resolve(default_name(base)).ref
    except HerdError:
        raise HerdError(f"{repo} is an adapter of {base}; `herd pull {base}` first") from None


def default_name(repo: str) -> str:
    """What a repository is called here unless the user says otherwise."""
    return repo.rpartition("/")[2].lower()


def _licence(card: str) -> str:
    found = re.search(r"^license:\s*(\S+)\s*$", card.partition("\n---")[0], re.MULTILINE)
    return found.group(1) if found else "unknown"
