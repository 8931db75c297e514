from pathlib import Path

import pytest

from herd.registry import Registry, registry


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What comes with Herd: nothing yet."""
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "bundled"


@pytest.fixture
def home(tmp_path: Path, bundled: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def here(home: Path) -> Registry:
    return Registry(home)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory as a model has it, to the registry just files."""
    directory = tmp_path / "weights"
    (directory / "extra").mkdir(parents=True)
    (directory / "config.json").write_text('{"vocab_size": 8}')
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 16)
    (directory / "extra" / "notes.txt").write_text("ü")
    return directory
