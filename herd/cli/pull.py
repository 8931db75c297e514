"""`herd pull`: a model or an adapter, from the Hugging Face hub or a directory, into the registry."""

import os
import re
import tempfile
from pathlib import Path

import click

from herd.cli.client import reload
from herd.cli.output import emit, json_option
from herd.errors import HerdError
from herd.registry import Registry, lineage
from herd.registry.files import read_json
from herd.registry.home import home
from herd.registry.registry import NAME

# Weights as plain tensors, and text. Nothing else is ever asked for: no pickles, no code.
ALLOWED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md", "LICENSE*"]


@click.command()
@click.argument("repo")
@click.option("--name", help="What to call it here (default: the repository's own name).")
@json_option
def pull(repo: str, name: str | None) -> None:
    """Fetch REPO (owner/name, or owner/name@revision) from the Hugging Face hub, or copy a directory that is here.

    A model is a directory in Hugging Face's form, an adapter (LoRA) one in PEFT's, whose base must be here. A broken
    connection is taken up where it broke, and finished files are not fetched again. HF_TOKEN, HF_HOME, HF_ENDPOINT and
    HF_HUB_OFFLINE are honoured.
    """
    local = Path(repo).expanduser().resolve()
    here = any((local / file).is_file() for file in ("config.json", "adapter_config.json"))
    repo, _, revision = (str(local), "", "") if here else repo.partition("@")
    name = name or default_name(repo)
    if not NAME.fullmatch(name):
        raise HerdError(f"{name!r} cannot be a model's name; give one of a-z, 0-9, '.', '_', '-' with --name")
    if here and (local / "config.json").is_file():
        _check_shape(repo, local / "config.json")
    snapshot = local if here else _fetch(repo, revision or None)
    commit, registry = None if here else snapshot.name, Registry(home())
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder)
        for file in sorted(snapshot.iterdir()):  # an older fetch by another program may have left more there
            if any(file.match(pattern) for pattern in ALLOWED):
                (chosen / file.name).symlink_to(file.resolve())
        base = _base(repo, chosen, registry)
        about = f"{repo} at {commit[:12]}" if commit else repo
        kind = "adapter" if base else "model"
        entry = registry.add(chosen, name, kind=kind, base=base, licence=_licence(chosen), description=about)
    lineage.record(
        home(),
        command="pull",
        inputs=[{"repo": repo, "revision": commit}],
        outputs=[{"kind": kind, "name": entry.ref, "digest": entry.digest}],
    )
    reload()
    data = {"ref": entry.ref, "digest": entry.digest, "repo": repo, "revision": commit}
    emit(data, f"{repo} is here as {entry.ref}; try `herd chat {entry.name}`")


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
            _check_shape(repo, config)
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


def _check_shape(repo: str, config: Path) -> None:
    from herd.model.config import Config

    try:
        Config.from_hf(read_json(config))
    except HerdError as error:
        raise HerdError(f"{repo}: {error}") from None


def _base(repo: str, folder: Path, registry: Registry) -> str | None:
    """The reference of an adapter's base here, None for a whole model. Raises HerdError for what is neither."""
    if not any(folder.glob("*.safetensors")):
        raise HerdError(
            f"{repo} has no safetensors weights; Herd reads no other form, since pickles can run code"
        )
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return None
    base = read_json(adapter).get("base_model_name_or_path")
    if not base:
        raise HerdError(f"{repo}: adapter_config.json does not name its base model")
    try:
        return registry.resolve(default_name(str(base))).ref
    except HerdError:
        raise HerdError(f"{repo} is an adapter of {base}; `herd pull {base}` first") from None


def default_name(repo: str) -> str:
    """What a repository is called here unless the user says otherwise."""
    return repo.rpartition("/")[2].lower()


def _licence(folder: Path) -> str:
    """The licence that the card's front matter names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)\s*$", text.partition("\n---")[0], re.MULTILINE)
    return found.group(1) if found else "unknown"
