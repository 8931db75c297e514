"""Models by name and version, targets, and which version a name serves."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.nearest import nearest
from herd.registry.entry import (
    CARD,
    NAME,
    ModelEntry,
    Problem,
    Target,
    check_name,
    read_entry,
    sampling_defaults,
)
from herd.registry.files import append_line, atomic_write, digest_of, read_json, sync_tree, tree_files

__all__ = ["BUNDLED", "CARD", "NAME", "ModelEntry", "Problem", "Registry", "Target"]

BUNDLED = Path(__file__).parents[1] / "bundled"


class Registry:
    """The models, targets and promotions under a home, over those that come with Herd."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)

    def models(self) -> list[ModelEntry]:
        """All versions, by name and version. A damaged directory is left out; `verify` reports it."""
        entries: dict[tuple[str, int], ModelEntry] = {}
        for path, bundled in self._directories():
            try:
                entry = read_entry(path, bundled)
            except HerdError:
                continue
            # A version of the user's stays what it was when a new release of Herd brings one of the same number.
            entries.setdefault((entry.name, entry.version), entry)
        return [entries[key] for key in sorted(entries)]

    def resolve(self, ref: str) -> ModelEntry:
        """`name` → the version it serves, `name@2` → that version. HerdError(404) names the nearest known one."""
        name, at, number = ref.partition("@")
        entries = {e.ref: e for e in self.models()}
        if at and (found := entries.get(ref)):
            return found
        versions = [e for e in entries.values() if e.name == name]
        if versions and not at:
            promoted = [e for v in reversed(self._stack(name)) if (e := entries.get(f"{name}@{v}"))]
            bundled = [e for e in reversed(versions) if e.bundled]
            return (promoted or bundled or versions)[0]
        damaged = self.home / "models" / name / number
        if NAME.fullmatch(name) and number.isdecimal() and damaged.is_dir():
            return read_entry(damaged, False)  # raises, and says why
        if ref in self._target_files():
            about = f"{ref} is a target, no model; `herd models` says which model it is made of"
            raise HerdError(about, status=404, code="model_not_found")
        raise _unknown(ref, nearest(ref, {*entries, *(e.name for e in entries.values())}))

    def _directories(self) -> Iterator[tuple[Path, bool]]:
        """The directory of each version, and whether it is bundled; the home's first."""
        for root, bundled in ((self.home, False), (BUNDLED, True)):
            for path in sorted((root / "models").glob("[!.]*/[!.]*")):
                yield path, bundled

    def current(self, name: str) -> ModelEntry:
        """The version that callers of `name` get."""
        return self.resolve(name)

    def target(self, name: str) -> Target:
        """A target written as a file, or a model's own. Promotions show at once. Raises HerdError: 404, broken 503."""
        file = self._target_files().get(name)
        if file is None:
            names = self._names()
            if name.partition("@")[0] not in names and (near := nearest(name, names)):
                raise _unknown(name, near)  # it may be a target's
            return self._of(name, self.resolve(name))
        try:
            return self._read_target(name, read_json(file))
        except HerdError as error:
            raise HerdError(f"target {name} is broken: {error}", status=503, code="broken_target") from None

    def _read_target(self, name: str, table: Mapping[str, Any]) -> Target:
        base = self._of(name, self.resolve(str(table.get("model"))))
        system, sampling = table.get("system"), table.get("sampling", {})
        if not isinstance(system, str | None) or not isinstance(sampling, dict):
            raise HerdError("system must be text and sampling a table")
        adapter = base.adapter if table.get("adapter") is None else self.resolve(str(table["adapter"]))
        if adapter and adapter.kind != "adapter":
            raise HerdError(f"{adapter.ref} is not an adapter")
        return Target(name, base.model, adapter, system, {**base.sampling, **sampling})

    def _of(self, name: str, entry: ModelEntry) -> Target:
        if entry.kind == "model":
            return Target(name, entry, sampling=sampling_defaults(entry))
        if not entry.base:
            raise HerdError(f"{entry.ref}: an adapter whose card names no base model")
        base = self.resolve(entry.base)
        if base.kind != "model":
            raise HerdError(f"{entry.ref}: its base {entry.base} is itself an adapter")
        return Target(name, base, entry, sampling=sampling_defaults(base))

    def targets(self) -> list[Target]:
        """One for each name and each target file; broken ones are left out."""
        found = []
        for name in self._names():
            try:
                found.append(self.target(name))
            except HerdError:
                continue
        return found

    def _names(self) -> list[str]:
        return sorted({e.name for e in self.models()} | self._target_files().keys())

    def _target_files(self) -> dict[str, Path]:
        places = (BUNDLED / "targets", self.home / "targets")
        return {p.stem: p for place in places for p in sorted(place.glob("*.json")) if NAME.fullmatch(p.stem)}

    def add(
        self,
        directory: Path,
        name: str,
        *,
        kind: str,
        parents: Sequence[str] = (),
        licence: str = "",
        description: str = "",
        metrics: Mapping[str, Any] | None = None,
        base: str | None = None,
    ) -> ModelEntry:
        """Copy `directory` in as the next version of `name`; it is there whole or not at all.

        An adapter's `base` is pinned to the version that it means now. Links are followed, hidden files left out.
        Raises HerdError for a bad name or base, or if there is no room.
        """
        check_name(name)
        if kind not in ("model", "adapter") or (kind == "adapter") != bool(base):
            raise HerdError("a model has no base; an adapter names its base as name@version")
        if base and self.resolve(base).kind != "model":
            raise HerdError(f"{base} is itself an adapter and cannot be a base; name the model under it")
        if not directory.is_dir():
            raise HerdError(f"{directory}: not a directory", status=404)
        models = self.home / "models" / name
        card: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "parents": list(parents),
            "licence": licence,
            "description": description,
            "metrics": dict(metrics or {}),
        }
        scratch = self._scratch(models)
        try:
            copied = scratch / "copy"
            shutil.copytree(directory, copied, ignore=shutil.ignore_patterns(CARD, ".*", "__pycache__"))
            card["files"] = files = tree_files(copied)
            card["digest"] = digest_of(files)
            sync_tree(copied)
            with self._locked():
                numbers = [p.name for p, _ in self._directories() if p.parent.name == name]
                version = max((int(n) for n in numbers if n.isdecimal()), default=0) + 1
                card |= {"version": version, "base": base and self.resolve(base).ref, "created": time.time()}
                atomic_write(copied / CARD, json.dumps(card, indent=2) + "\n")
                copied.rename(models / str(version))
                sync_tree(models / str(version))
        except OSError as error:  # shutil gathers its errors in one that has no strerror
            reason = f"could not add {directory} as a version ({str(error.strerror or error)[:200]})"
            raise HerdError(f"{models}: {reason}", status=507) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self.resolve(f"{name}@{version}")

    def _scratch(self, models: Path) -> Path:
        """A new directory beside the models; those that a killed `add` left a day ago go."""
        try:
            models.mkdir(parents=True, exist_ok=True)
            for left in models.parent.glob(".add-*"):
                with suppress(FileNotFoundError):  # another `add` has just ended
                    if left.stat().st_mtime < time.time() - 86_400:
                        shutil.rmtree(left, ignore_errors=True)
            return Path(tempfile.mkdtemp(prefix=".add-", dir=models.parent))
        except OSError as error:
            raise HerdError(f"cannot write to {models}: {error.strerror}", status=507) from None

    def promote(self, name: str, version: int, verdict: Mapping[str, Any]) -> ModelEntry:
        """From now on `name` serves `version`; the verdict that decided it is kept beside it."""
        entry = self.resolve(f"{name}@{version}")
        with self._locked():
            self._decide(name, version=version, verdict=dict(verdict))
        return entry

    def rollback(self, name: str) -> ModelEntry:
        """Undo the last promotion of `name` that is not undone yet. HerdError when there is none."""
        self.resolve(name)
        with self._locked():
            if not self._stack(name):
                raise HerdError(f"{name}: no promotion to undo", status=409)
            self._decide(name, undo=True)
        return self.resolve(name)

    def promotions(self) -> list[dict[str, Any]]:
        """Every promotion and undo, oldest first."""
        try:
            lines = self._promotions.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line cut by a crash
            if isinstance(entry, dict) and (entry.get("undo") or isinstance(entry.get("version"), int)):
                found.append(entry)
        return found

    @property
    def _promotions(self) -> Path:
        return self.home / "promotions.jsonl"

    def _decide(self, name: str, **what: Any) -> None:
        append_line(self._promotions, json.dumps({"name": name, **what, "at": time.time()}))

    def _stack(self, name: str) -> list[int]:
        """The versions that `name` has been promoted to, without those undone; the last one is served."""
        stack: list[int] = []
        for entry in self.promotions():
            if entry.get("name") == name:
                stack = stack[:-1] if entry.get("undo") else [*stack, entry["version"]]
        return stack

    def remove(self, ref: str) -> None:
        """Delete one version. What comes with Herd, serves now, or is another's base stays."""
        entry = self.resolve(ref)
        if "@" not in ref or entry.bundled:
            raise HerdError(f"{ref}: name one version that is not bundled, as in cria@2")
        if self.current(entry.name) == entry or any(e.base == entry.ref for e in self.models()):
            raise HerdError(f"{ref} is served or is another's base; roll back or remove that first")
        shutil.rmtree(entry.path)

    def verify(self, ref: str | None = None) -> list[Problem]:
        """Re-hash one or all versions and report whatever is not as its card says."""
        problems = []
        chosen = None if ref is None else self.resolve(ref).path
        for path, bundled in self._directories():
            if chosen and path != chosen:
                continue
            try:
                entry = read_entry(path, bundled)
                found = tree_files(path, leave_out=CARD)
                listed = read_json(path / CARD).get("files", {})
            except (HerdError, OSError) as error:
                problems.append(Problem(str(path), str(error)))
                continue
            if (now := digest_of(found)) != entry.digest:
                what = _difference(listed, found) if isinstance(listed, dict) else []
                differ = f"files differ from the card's digest ({entry.digest[:12]}, found {now[:12]})"
                problems += [Problem(str(path), line) for line in what or [differ]]
        return problems

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / ".registry-lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _unknown(ref: str, near: str | None) -> HerdError:
    hint = f"did you mean {near!r}?" if near else "`herd models` lists them"
    return HerdError(f"no model {ref[:80]!r}; {hint}", status=404, code="model_not_found")


def _difference(listed: Mapping[str, Any], found: Mapping[str, str]) -> list[str]:
    """A line for each file that is not as the card lists it; none for a card that lists no files."""
    if not listed:
        return []
    lines = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    lines += [f"{name} is not on the card" for name in sorted(found.keys() - listed.keys())]
    changed = [name for name in sorted(found) if listed.get(name, found[name]) != found[name]]
    return lines + [f"{name} was changed" for name in changed]
