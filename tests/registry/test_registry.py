"""Versions, promotions, targets and verification, on directories whose content means nothing."""

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.registry import Registry


def bundle(bundled: Path, weights: Path, here: Registry, name: str = "cria", version: int = 1) -> None:
    """Let `name@version` come with Herd, made as a release makes it: added, then moved into the package."""
    entry = here.add(weights, name, kind="model", licence="Apache-2.0", description="small")
    card = json.loads((entry.path / "herd.json").read_text())
    (bundled / "models" / name).mkdir(parents=True, exist_ok=True)
    entry.path.rename(bundled / "models" / name / str(version))
    (bundled / "models" / name / str(version) / "herd.json").write_text(
        json.dumps({**card, "version": version})
    )


def test_added_versions_count_up_and_are_copies(here: Registry, weights: Path) -> None:
    first = here.add(
        weights, "cria", kind="model", licence="MIT", description="d", metrics={"loss": 2.5}, parents=["p"]
    )
    (weights / "config.json").write_text("{}")
    second = here.add(weights, "cria", kind="model")
    assert (first.ref, second.ref) == ("cria@1", "cria@2")
    assert json.loads((first.path / "config.json").read_text()) == {"vocab_size": 8}
    assert (first.licence, first.description, first.metrics, first.parents) == (
        "MIT",
        "d",
        {"loss": 2.5},
        ("p",),
    )
    assert first.created <= second.created and not first.bundled
    assert [entry.ref for entry in here.models()] == ["cria@1", "cria@2"] and here.verify() == []


def test_the_digest_is_over_sorted_paths_and_their_hashes(here: Registry, weights: Path) -> None:
    names = ["config.json", "extra/notes.txt", "model.safetensors"]
    lines = [f"{name}\0{hashlib.sha256((weights / name).read_bytes()).hexdigest()}\n" for name in names]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    (weights / "herd.json").write_text("the card is no part of it")
    assert here.add(weights, "cria", kind="model").digest == expected
    assert here.add(weights, "other", kind="model", licence="MIT").digest == expected


def test_add_follows_links_and_leaves_hidden_files(here: Registry, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"blob")
    (weights / "model-2.safetensors").symlink_to(tmp_path / "blob")
    (weights / ".cache").mkdir()
    (weights / ".cache" / "token").write_text("secret")
    entry = here.add(weights, "cria", kind="model")
    assert not (entry.path / ".cache").exists() and not (entry.path / "model-2.safetensors").is_symlink()
    assert (entry.path / "model-2.safetensors").read_bytes() == b"blob"


@pytest.mark.parametrize(
    "name", ["", "Cria", "../x", "a/b", ".x", "-x", "a b", "a@1", "ü", "x" * 65, "x\n", "\0"]
)
def test_names_that_are_no_names(here: Registry, weights: Path, name: str, home: Path) -> None:
    with pytest.raises(HerdError) as caught:
        here.add(weights, name, kind="model")
    assert "\n" not in str(caught.value)
    for ref in (name, f"{name}@1"):
        with pytest.raises(HerdError):
            here.resolve(ref)
        with pytest.raises(HerdError):
            here.target(ref)
    assert not list(home.glob("**/config.json"))


@pytest.mark.parametrize(
    "ref", ["cria@../../x", "cria@", "cria@0", "cria@01", "cria@-1", "cria@1.0", "cria@٣", "cria@1/.."]
)
def test_references_that_are_none(here: Registry, weights: Path, ref: str) -> None:
    here.add(weights, "cria", kind="model")
    with pytest.raises(HerdError) as caught:
        here.resolve(ref)
    assert caught.value.status == 404


def test_an_unknown_name_names_the_nearest(here: Registry, weights: Path) -> None:
    here.add(weights, "cria", kind="model")
    for ask in (here.resolve, here.target):
        with pytest.raises(HerdError, match="did you mean 'cria'") as caught:
            ask("crai")
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_failed_add_leaves_nothing(
    here: Registry, weights: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str, **rest: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(HerdError, match="No space left on device"):
            here.add(weights, "cria", kind="model")
    assert here.models() == [] and not list((home / "models").glob(".add-*"))
    assert here.add(weights, "cria", kind="model").ref == "cria@1"


def test_what_cannot_be_copied_is_refused(here: Registry, weights: Path) -> None:
    os.mkfifo(weights / "pipe")
    with pytest.raises(HerdError, match="pipe"):
        here.add(weights, "cria", kind="model")
    with pytest.raises(HerdError):
        here.add(weights / "absent", "cria", kind="model")
    assert here.models() == []


def _add(home: Path, weights: Path) -> int:
    return Registry(home).add(weights, "llama", kind="model").version


def test_concurrent_adds_get_a_version_each(here: Registry, home: Path, weights: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        versions = pool.starmap(_add, [(home, weights)] * 9)
    assert sorted(versions) == list(range(1, 10)) and here.verify() == []


def test_promote_and_roll_back(here: Registry, home: Path, weights: Path) -> None:
    for _ in range(3):
        here.add(weights, "cria", kind="model")
    assert here.current("cria").version == 1
    here.promote("cria", 2, {"decision": "SWITCH"})
    here.promote("cria", 3, {"decision": "SWITCH"})
    before = (home / "promotions.jsonl").read_bytes()
    assert here.resolve("cria").version == here.target("cria").model.version == 3
    assert here.resolve("cria@1").version == 1
    assert here.rollback("cria").version == 2
    assert here.rollback("cria").version == 1
    with pytest.raises(HerdError, match="no promotion to undo"):
        here.rollback("cria")
    assert (home / "promotions.jsonl").read_bytes().startswith(before)
    here.promote("cria", 3, {})
    assert Registry(home).current("cria").version == 3
    with pytest.raises(HerdError):
        here.promote("cria", 4, {})


def test_a_torn_promotion_does_not_spoil_the_next(here: Registry, home: Path, weights: Path) -> None:
    here.add(weights, "cria", kind="model")
    here.add(weights, "cria", kind="model")
    (home / "promotions.jsonl").write_text('{"name": "cria", "version": 1}\n[]\n{"name": "cria", "ver')
    here.promote("cria", 2, {})
    assert here.current("cria").version == 2 and here.rollback("cria").version == 1


def test_what_serves_or_is_a_base_cannot_be_removed(here: Registry, weights: Path) -> None:
    here.add(weights, "cria", kind="model")
    here.add(weights, "cria", kind="adapter", base="cria@1")
    here.add(weights, "cria", kind="model")
    here.promote("cria", 3, {})
    for ref in ("cria@3", "cria@1", "cria"):
        with pytest.raises(HerdError):
            here.remove(ref)
    here.remove("cria@2")
    assert [entry.ref for entry in here.models()] == ["cria@1", "cria@3"]


def test_an_adapter_is_served_on_its_base(here: Registry, weights: Path) -> None:
    base = here.add(weights, "cria", kind="model")
    (weights / "model.safetensors").write_bytes(b"adapter")
    adapter = here.add(weights, "cria", kind="adapter", base="cria", parents=[base.digest])
    here.promote("cria", 2, {})
    target = here.target("cria")
    assert adapter.base == "cria@1"  # pinned, or promoting the adapter would make it its own base
    assert (target.model, target.adapter) == (base, adapter)
    assert (target.model_dir, target.adapter_dir) == (base.path, adapter.path)
    assert target.engine_key != here.target("cria@1").engine_key
    with pytest.raises(HerdError, match="itself an adapter"):
        here.add(weights, "cria", kind="adapter", base="cria@2")
    with pytest.raises(HerdError, match="no model"):
        here.add(weights, "cria", kind="adapter", base="cria@7")


def test_bundled_models_are_read_only_and_come_first(here: Registry, bundled: Path, weights: Path) -> None:
    bundle(bundled, weights, here)
    entry = here.resolve("cria")
    assert entry.bundled and entry.ref == "cria@1" and here.verify() == []
    mine = here.add(weights, "cria", kind="model")
    assert mine.ref == "cria@2" and here.current("cria") == entry
    with pytest.raises(HerdError):
        here.remove("cria@1")


def test_an_upgrade_does_not_replace_a_version_of_the_users(
    here: Registry, bundled: Path, weights: Path
) -> None:
    bundle(bundled, weights, here)
    (weights / "config.json").write_text("{}")
    mine = here.add(weights, "cria", kind="model")
    here.promote("cria", 2, {})
    (weights / "config.json").write_text("[]")
    (bundled / "models" / "cria" / "2").mkdir()
    shutil.copytree(bundled / "models" / "cria" / "1", bundled / "models" / "cria" / "2", dirs_exist_ok=True)
    card = json.loads((bundled / "models" / "cria" / "2" / "herd.json").read_text())
    (bundled / "models" / "cria" / "2" / "herd.json").write_text(json.dumps({**card, "version": 2}))
    assert here.current("cria") == mine
    here.rollback("cria")
    assert here.current("cria").bundled


def test_targets(here: Registry, home: Path, bundled: Path, weights: Path) -> None:
    (weights / "generation_config.json").write_text('{"temperature": 0.7, "top_k": 40, "do_sample": true}')
    here.add(weights, "cria", kind="model")
    here.add(weights, "cria", kind="model")
    (home / "targets").mkdir()
    bard = {"model": "cria", "adapter": None, "system": "You rhyme.", "sampling": {"temperature": 0.9}}
    (home / "targets" / "bard.json").write_text(json.dumps(bard))
    (home / "targets" / "BAD NAME.json").write_text(json.dumps(bard))
    target = here.target("bard")
    assert (target.name, target.system, target.model.ref) == ("bard", "You rhyme.", "cria@1")
    assert target.sampling == {"temperature": 0.9, "top_k": 40}
    assert here.target("cria").sampling == {"temperature": 0.7, "top_k": 40}
    assert target.digest != here.target("cria").digest and target.engine_key == here.target("cria").engine_key
    assert [t.name for t in here.targets()] == ["bard", "cria"]
    here.promote("cria", 2, {})
    assert here.target("bard").model.version == 2
    with pytest.raises(HerdError, match="'bard'"):
        here.target("brad")


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"model": 5}', '{"model": "../../x"}', '{"model": "cria", "system": 5}',
        '{"model": "cria", "sampling": []}', '{"model": "cria", "adapter": "cria"}', '{"model": "cria", "adapter": {}}',
        '{"model": "cria", "sampling": {"temperature": NaN}}', "[" * 100_000, "\ud800",
    ],
)  # fmt: skip
def test_a_hostile_target_is_refused_and_spoils_nothing(
    here: Registry, home: Path, weights: Path, content: str
) -> None:
    here.add(weights, "cria", kind="model")
    (home / "targets").mkdir()
    (home / "targets" / "bard.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(HerdError) as caught:
        here.target("bard")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert caught.value.status == 503 and "bard" in str(caught.value)
    assert [target.name for target in here.targets()] == ["cria"]


def test_verify_finds_a_changed_byte_a_missing_and_an_extra_file(here: Registry, weights: Path) -> None:
    kept, entry = here.add(weights, "kept", kind="model"), here.add(weights, "cria", kind="model")
    model = entry.path / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[2000] ^= 1
    model.write_bytes(content)
    assert [p.what for p in here.verify()] == ["model.safetensors was changed"]
    (entry.path / "config.json").unlink()
    (entry.path / "extra" / "herd.json").write_text("{}")
    found = [p.what for p in here.verify("cria@1")]
    assert found == [
        "config.json is missing",
        "extra/herd.json is not on the card",
        "model.safetensors was changed",
    ]
    assert here.verify(kept.ref) == []


def test_verify_finds_links_and_lost_cards(here: Registry, weights: Path) -> None:
    linked, lost = here.add(weights, "linked", kind="model"), here.add(weights, "lost", kind="model")
    (linked.path / "config.json").unlink()
    (linked.path / "config.json").symlink_to(weights / "config.json")
    (lost.path / "herd.json").unlink()
    assert {Path(p.where).parent.name for p in here.verify()} == {"linked", "lost"}
    with pytest.raises(HerdError, match="no such file"):
        here.resolve("lost@1")


@pytest.mark.parametrize(
    "change",
    [
        "{", "[]", "null", "[" * 100_000, '{"name": NaN}', " " * (1 << 20) + "{}",
        {"name": "../../etc"}, {"name": "other"}, {"name": 5}, {"version": 2}, {"version": "1/../.."}, {"kind": "pickle"},
        {"kind": []}, {"digest": "../x"}, {"digest": 5}, {"digest": ""}, {"base": []}, {"parents": {}}, {"metrics": []},
        {"created": "now"}, {"created": 10**400}, {"licence": None}, {"description": 5},
    ],
)  # fmt: skip
def test_a_hostile_card_is_refused_and_spoils_nothing(here: Registry, weights: Path, change: Any) -> None:
    here.add(weights, "kept", kind="model")
    path = here.add(weights, "cria", kind="model").path / "herd.json"
    path.write_text(
        change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change})
    )
    with pytest.raises(HerdError) as caught:
        here.resolve("cria@1")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert [entry.ref for entry in here.models()] == ["kept@1"]
    assert [Path(p.where).parent.name for p in here.verify()] == ["cria"]
    assert here.add(weights, "cria", kind="model").ref == "cria@2"


def test_a_version_that_is_no_number_spoils_nothing(here: Registry, weights: Path) -> None:
    here.add(weights, "cria", kind="model")
    for number in ("x", "01", "٣", "True"):
        copy = here.resolve("cria@1").path.with_name(number)
        shutil.copytree(here.resolve("cria@1").path, copy)
        card = json.loads((copy / "herd.json").read_text())
        (copy / "herd.json").write_text(json.dumps({**card, "version": number}))
    assert [entry.ref for entry in here.models()] == ["cria@1"]
    assert {Path(p.where).name for p in here.verify()} == {"x", "01", "٣", "True"}
    assert here.add(weights, "cria", kind="model").version == 4  # ٣ is a three


def test_an_adapter_that_lost_its_base_is_said_and_spoils_nothing(here: Registry, weights: Path) -> None:
    here.add(weights, "kept", kind="model")
    base = here.add(weights, "base", kind="model")
    here.add(weights, "tuned", kind="adapter", base="base@1")
    shutil.rmtree(base.path)
    assert [target.name for target in here.targets()] == ["kept"]
    with pytest.raises(HerdError, match="no model 'base@1'"):
        here.target("tuned")
