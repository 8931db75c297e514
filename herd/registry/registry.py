"""Models by name and version, targets, and which version a name serves."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.registry.files import append_line, atomic_write, tree_digest
from herd.registry.nearest import nearest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
CARD = "herd.json"
BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass(frozen=True)
class ModelEntry:
    """One version of a model or an adapter. `digest` is over the files' paths and hashes, the card left out."""

    name: str
    version: int
    kind: str  # "model" or "adapter"
    path: Path
    digest: str
    base: str | None = None
    parents: tuple[str, ...] = ()
    licence: str = ""
    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0
    bundled: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Target:
    """What may stand behind a name: model, adapter, system prompt and sampling defaults, with one digest."""

    name: str
    model: ModelEntry
    adapter: ModelEntry | None = None
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine_key(self) -> str:
        """Names the weights that an engine must hold; targets that share them share it."""
        return self.model.digest[:16] + (f"+{self.adapter.digest[:16]}" if self.adapter else "")

    @property
    def digest(self) -> str:
        parts = [self.model.digest, self.adapter and self.adapter.digest, self.system, dict(self.sampling)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def model_dir(self) -> Path:
        return self.model.path

    @property
    def adapter_dir(self) -> Path | None:
        return self.adapter.path if self.adapter else None


@dataclass(frozen=True)
class Problem:
    """Something that verification found: `where` it is and `what` is wrong."""

    where: str
    what: str


class Registry:
    """The models, targets and promotions under a home, over those that come with Herd."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)

    def models(self) -> list[ModelEntry]:
        """All versions, by name and version. A damaged directory is left out; `verify` reports it."""
        entries: dict[tuple[str, int], ModelEntry] = {}
        for root, bundled in ((BUNDLED, True), (self.home, False)):
            for path in sorted((root / "models").glob("*/*")):
                if path.name.isdigit() and (path / CARD).is_file():
                    try:
                        entry = _entry(path, bundled)
                    except HerdError:
                        continue
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
            return entries.get(f"{name}@{self._promoted(name)}") or versions[0]
        near = nearest(ref, {*entries, *(e.name for e in entries.values())})
        hint = f"did you mean {near!r}?" if near else "`herd models` lists them"
        raise HerdError(f"no model {ref[:80]!r}; {hint}", status=404, code="model_not_found")

    def current(self, name: str) -> ModelEntry:
        """The version that callers of `name` get."""
        return self.resolve(name)

    def target(self, name: str) -> Target:
        """A target written as a file, or a model's own. Promotions show at once."""
        file = self._target_files().get(name)
        if file is None:
            try:
                return self._of(name, self.resolve(name))
            except HerdError as error:
                near = nearest(name, [t.name for t in self.targets()])
                if near is None:
                    raise
                raise HerdError(
                    f"no model {name[:80]!r}; did you mean {near!r}?", status=404, code=error.code
                ) from None
        table = _read(file)
        base = self._of(name, self.resolve(str(table.get("model"))))
        system, sampling = table.get("system"), table.get("sampling", {})
        if not isinstance(system, str | None) or not isinstance(sampling, dict):
            raise HerdError(f"{file}: system must be text and sampling a table")
        adapter = self.resolve(table["adapter"]) if table.get("adapter") else base.adapter
        return Target(name, base.model, adapter, system, sampling)

    def _of(self, name: str, entry: ModelEntry) -> Target:
        if entry.kind == "model":
            return Target(name, entry, sampling=_sampling(entry))
        if not entry.base:
            raise HerdError(f"{entry.ref}: an adapter whose card names no base model")
        base = self.resolve(entry.base)
        if base.kind != "model":
            raise HerdError(f"{entry.ref}: its base {entry.base} is itself an adapter")
        return Target(name, base, entry, sampling=_sampling(base))

    def targets(self) -> list[Target]:
        """One for each name and each target file; broken ones are left out."""
        found = []
        for name in sorted({e.name for e in self.models()} | set(self._target_files())):
            try:
                found.append(self.target(name))
            except HerdError:
                continue
        return found

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
        """Copy `directory` in as the next version of `name`; it is there whole or not at all."""
        if not NAME.fullmatch(name):
            raise HerdError(
                f"{name[:80]!r} is not a model name: lower-case letters, digits, '.', '_' and '-'"
            )
        if kind not in ("model", "adapter") or (kind == "adapter") != bool(base):
            raise HerdError("a model has no base; an adapter names its base as name@version")
        if not directory.is_dir():
            raise HerdError(f"{directory}: not a directory", status=404)
        models = self.home / "models" / name
        models.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".add-", dir=self.home / "models"))
        try:
            copied = scratch / "copy"
            shutil.copytree(directory, copied, ignore=shutil.ignore_patterns(CARD))
            with self._locked():
                version = max((e.version for e in self.models() if e.name == name), default=0) + 1
                card = {
                    "name": name,
                    "version": version,
                    "kind": kind,
                    "base": base,
                    "digest": tree_digest(copied, leave_out=CARD),
                    "parents": list(parents),
                    "licence": licence,
                    "description": description,
                    "metrics": dict(metrics or {}),
                    "created": time.time(),
                }
                atomic_write(copied / CARD, json.dumps(card, indent=2) + "\n")
                copied.rename(models / str(version))
        except OSError as error:
            raise HerdError(
                f"{models}: could not add a version ({error.strerror}); free space and try again"
            ) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self.resolve(f"{name}@{version}")

    def promote(self, name: str, version: int, verdict: Mapping[str, Any]) -> ModelEntry:
        """From now on `name` serves `version`; the verdict that decided it is kept beside it."""
        entry = self.resolve(f"{name}@{version}")
        self._decide({"name": name, "version": version, "verdict": dict(verdict), "at": time.time()})
        return entry

    def rollback(self, name: str) -> ModelEntry:
        """Undo the last promotion of `name` that is not undone yet. HerdError when there is none."""
        self.resolve(name)
        with self._locked():
            if not self._stack(name):
                raise HerdError(f"{name}: no promotion to undo")
            append_line(self._promotions, json.dumps({"name": name, "undo": True, "at": time.time()}))
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
            if isinstance(entry, dict):
                found.append(entry)
        return found

    @property
    def _promotions(self) -> Path:
        return self.home / "promotions.jsonl"

    def _decide(self, entry: Mapping[str, Any]) -> None:
        with self._locked():
            append_line(self._promotions, json.dumps(entry))

    def _stack(self, name: str) -> list[int]:
        stack: list[int] = []
        for entry in self.promotions():
            if entry.get("name") != name:
                continue
            if entry.get("undo"):
                stack = stack[:-1]
            else:
                stack.append(int(entry["version"]))
        return stack

    def _promoted(self, name: str) -> int | None:
        return next(reversed(self._stack(name)), None)

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
        for root in (BUNDLED, self.home):
            for path in sorted((root / "models").glob("*/*")):
                if path.name.startswith(".") or (chosen and path != chosen):
                    continue
                try:
                    entry = _entry(path, root == BUNDLED)
                    found = tree_digest(path, leave_out=CARD)
                except (HerdError, OSError) as error:
                    problems.append(Problem(str(path), str(error)))
                    continue
                if found != entry.digest:
                    what = f"files differ from the card's digest ({entry.digest[:12]}, found {found[:12]})"
                    problems.append(Problem(str(path), what))
        return problems

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / ".registry-lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 1 << 20:
            raise HerdError(f"{path}: larger than 1 MiB; refused")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HerdError(f"{path}: not readable JSON ({str(error)[:80]})") from None
    if not isinstance(table, dict):
        raise HerdError(f"{path}: expected a JSON object")
    return table


def _entry(path: Path, bundled: bool) -> ModelEntry:
    card = path / CARD
    try:
        stamp = card.stat().st_mtime_ns
    except OSError:
        raise HerdError(f"{card}: no such file") from None
    return _parse(path, stamp, bundled)


@lru_cache(maxsize=1024)
def _parse(path: Path, stamp: int, bundled: bool) -> ModelEntry:
    table = _read(path / CARD)
    kinds = {"kind": str, "digest": str, "licence": str, "description": str, "metrics": dict, "parents": list}
    wrong = [k for k, kind in kinds.items() if not isinstance(table.get(k, kind()), kind)]
    if wrong or table.get("name") != path.parent.name or str(table.get("version")) != path.name:
        raise HerdError(
            f"{path / CARD}: malformed card ({', '.join(wrong) or 'its name or version is another'})"
        )
    if not NAME.fullmatch(table["name"]) or table.get("kind") not in ("model", "adapter"):
        raise HerdError(f"{path / CARD}: malformed card (name or kind)")
    base, created = table.get("base"), table.get("created", 0)
    if not isinstance(base, str | None) or not isinstance(created, int | float):
        raise HerdError(f"{path / CARD}: malformed card (base or created)")
    return ModelEntry(
        name=table["name"],
        version=int(path.name),
        kind=table["kind"],
        path=path,
        digest=table.get("digest", ""),
        base=base,
        parents=tuple(str(p) for p in table.get("parents", [])),
        licence=table.get("licence", ""),
        description=table.get("description", ""),
        metrics=table.get("metrics", {}),
        created=float(created),
        bundled=bundled,
    )


def _sampling(entry: ModelEntry) -> dict[str, Any]:
    """Sampling defaults that the model's own generation_config.json states."""
    try:
        table = _read(entry.path / "generation_config.json")
    except HerdError:
        return {}
    known = ("temperature", "top_k", "top_p", "min_p")
    return {
        k: table[k] for k in known if isinstance(table.get(k), int | float) and not isinstance(table[k], bool)
    }
