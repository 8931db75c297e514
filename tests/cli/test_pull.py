"""`herd pull`, in a process of its own (the hub's package reads its settings at import), from a fake hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMIT


class Shell:
    def __init__(self, folder: Path, url: str) -> None:
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HERD_"))},
            "HF_ENDPOINT": url,
            "HF_HOME": str(folder / "hf"),
            "HERD_HOME": str(folder / "herd"),
            "HERD_PORT": "9",  # nobody listens there
        }

    def __call__(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "herd", *args]
        return subprocess.run(command, capture_output=True, text=True, env=self.env | env, timeout=60)


@pytest.fixture
def shell(hub: Any, tmp_path: Path) -> Shell:
    return Shell(tmp_path, hub.url)


@pytest.fixture
def filled(hub: Any, tiny: Path) -> Any:
    hub.files = {file.name: file.read_bytes() for file in tiny.iterdir()}
    hub.files["README.md"] = b"---\nlicense: apache-2.0\ntags: [tiny]\n---\n# Tiny\n"
    hub.files["pytorch_model.bin"] = b"\x80\x04."
    hub.files["modeling_evil.py"] = b"raise SystemExit('ran')"
    hub.files["original/consolidated.safetensors"] = b"again"
    return hub


def test_a_broken_download_is_taken_up_where_it_broke(filled: Any, shell: Shell, tmp_path: Path) -> None:
    filled.files["large.safetensors"] = bytes(24 << 20)  # the hub's package keeps whole pieces of 10 MiB
    filled.cut = {"large.safetensors"}
    done = shell("pull", filled.repo, "--json")
    assert done.returncode == 0, done.stderr
    ranges = [wanted for name, wanted in filled.asked if name == "large.safetensors"]
    assert ranges == [None, f"bytes={10 << 20}-"]
    told = json.loads(done.stdout)
    assert told["ref"] == "tiny-llama@1" and told["revision"] == COMMIT

    got = tmp_path / "herd" / "models" / "tiny-llama" / "1"
    for name in ("model.safetensors", "large.safetensors"):
        assert (got / name).read_bytes() == filled.files[name]
    asked = {name for name, _ in filled.asked}
    assert not asked & {"pytorch_model.bin", "modeling_evil.py", "original/consolidated.safetensors"}
    assert not any(file.is_symlink() for file in got.iterdir())
    card = json.loads(shell("show", "tiny-llama", "--json").stdout)
    assert card["licence"] == "apache-2.0" and card["digest"] == told["digest"]
    assert [record["command"] for record in card["lineage"]] == ["pull"]
    assert card["lineage"][0]["inputs"] == [{"repo": filled.repo, "revision": COMMIT}]
    assert shell("verify", "tiny-llama").returncode == 0


def test_finished_files_are_not_fetched_again_and_offline_uses_them(filled: Any, shell: Shell) -> None:
    assert shell("pull", filled.repo).returncode == 0
    filled.asked.clear()
    again = shell("pull", filled.repo, "--name", "other")
    assert again.returncode == 0 and filled.asked == []
    offline = shell(
        "pull", filled.repo, "--name", "third", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert offline.returncode == 0, offline.stderr


def test_what_cannot_run_is_refused_before_its_weights(filled: Any, shell: Shell) -> None:
    filled.files["config.json"] = b'{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}'
    done = shell("pull", filled.repo)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "mamba" in done.stderr.lower()
    assert [name for name, _ in filled.asked] == ["config.json"]


def test_a_directory_that_is_here(hub: Any, shell: Shell, tiny: Path, tmp_path: Path) -> None:
    from herd.model import hf, lora

    done = shell("pull", str(tiny), "--name", "mine", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ref"] == "mine@1", done.stderr
    assert (tmp_path / "herd" / "models" / "mine" / "1" / "model.safetensors").is_file() and not hub.asked
    model = hf.load(tiny)
    lora.add_lora(model, rank=2)
    lora.save_peft(model, tmp_path / "tuned", base="somebody/mine")
    done = shell("pull", str(tmp_path / "tuned"))
    assert done.returncode == 0 and "tuned@1" in done.stdout, done.stderr
    assert "adapter" in shell("show", "tuned").stdout
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "mamba"}')
    done = shell("pull", str(tmp_path / "odd"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "mamba" in done.stderr


def test_pickled_weights_are_refused(filled: Any, shell: Shell) -> None:
    del filled.files["model.safetensors"]
    done = shell("pull", filled.repo)
    assert done.returncode == 1 and "no safetensors" in done.stderr
    assert "pytorch_model.bin" not in [name for name, _ in filled.asked]


@pytest.mark.parametrize(
    ("repo", "said"),
    [("someone/else", "no model someone/else"), ("a/b/c", "owner/name"), ("someone/Ünlaut", "")],
)
def test_a_wrong_name_is_one_line(hub: Any, shell: Shell, repo: str, said: str) -> None:
    done = shell("pull", repo)
    assert done.returncode == 1 and said in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_no_hub_is_one_line(hub: Any, shell: Shell) -> None:
    done = shell("pull", "someone/else", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "again" in done.stderr
