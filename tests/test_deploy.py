"""What deploy/ names exists here, and its commands do what they say. Containers themselves are not run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from herd.cli import VERBS
from herd.gateway.config import load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SETTINGS = {
    name
    for path in (ROOT / "herd").rglob("*.py")
    for name in re.findall(r"\bHERD_[A-Z_]+\b", path.read_text("utf-8"))
}


class Loader(yaml.SafeLoader):
    """Knows compose's own tag."""


Loader.add_constructor("!reset", lambda loader, node: [])  # type: ignore[no-untyped-call]


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((DEPLOY / name).read_text(), Loader)  # noqa: S506  # a SafeLoader
    return found


@pytest.mark.parametrize(
    "name", sorted(str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file())
)
def test_settings_named_in_a_file_exist(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert set(re.findall(r"\bHERD_[A-Z_]+\b", text)) <= SETTINGS
    assert "/simple" not in text and not re.search(r"index-url[ =]+\W?http", text)


def test_the_container_copies_what_is_here_and_is_nobody() -> None:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER (?!root\b|0\b)\w+$", final, re.MULTILINE)
    assert final.index("\nUSER ") > final.rindex("\nRUN ")
    assert 'ENTRYPOINT ["herd"]' in final and re.search(r'^CMD \["(\w+)"\]$', final, re.MULTILINE)[1] in VERBS  # type: ignore[index]
    (probe,) = re.findall(r'^HEALTHCHECK .*CMD \["python", "-c", *"(.*)"\]$', final, re.MULTILINE)
    compile(probe, "HEALTHCHECK", "exec")


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.two.yaml")])
def test_compose_names_what_exists(names: tuple[str, ...]) -> None:
    every = [compose(name) for name in names]
    services = {name: service for file in every for name, service in file["services"].items()}
    main = every[0]
    for name, service in services.items():
        assert "image" in service or (DEPLOY / service.get("build", {"context": ".."})["context"]).is_dir(), (
            name
        )
        if build := main["services"].get(name, {}).get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in main["volumes"]
        assert set(service.get("secrets", ())) <= set(main["secrets"])
        assert set(service.get("depends_on", ())) <= set(services)
    assert not [s for s in main["secrets"].values() if not s["file"].startswith("./secrets/")]


def test_the_gateway_of_compose_gets_its_secrets(tmp_path: Path) -> None:
    """Its command, with a `herd` that only says with what it was called."""
    gateway = compose("compose.yaml")["services"]["gateway"]
    for name in gateway["secrets"]:
        (tmp_path / name).write_text(f"the-{name}\n")
    herd = tmp_path / "bin" / "herd"
    herd.parent.mkdir()
    herd.write_text('#!/bin/sh\necho "$@" "$HERD_API_KEY" "$HERD_DATABASE_URL"\n')
    herd.chmod(0o755)
    command = gateway["command"][0].replace("$$", "$").replace("/run/secrets", str(tmp_path))
    env = {"PATH": f"{herd.parent}:{os.environ['PATH']}"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([*gateway["entrypoint"], command], env=env, capture_output=True, text=True)

    url = "postgresql://herd:the-database_password@database/herd"
    assert run().stdout == f"serve the-herd_api_key {url}\n"
    (tmp_path / "database_password").unlink()
    assert run().returncode and not run().stdout  # not started without it


def test_the_example_configuration_is_good_and_its_secrets_are_mounted() -> None:
    config = load(DEPLOY / "etc" / "herd.toml", {})
    secrets = compose("compose.yaml")["services"]["gateway"]["secrets"]
    for provider in config.providers.values():
        kind, _, path = (provider.key or "").partition(":")
        assert kind == "file" and Path(path).parent == Path("/run/secrets") and Path(path).name in secrets
    assert "assistant" in config.routes


def test_the_door_leads_to_the_gateway() -> None:
    text = (DEPLOY / "Caddyfile").read_text()
    (name, port) = re.findall(r"dynamic a (\w+) (\d+)", text)[0]
    assert name in compose("compose.yaml")["services"]
    assert f"HERD_PORT={port}" in (DEPLOY / "Containerfile").read_text()


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    text = (DEPLOY / "herd.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    path, verb = shlex.split(command)
    assert Path(path).name == "herd" and verb in VERBS
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        return  # its syntax is checked where systemd is
    unit = tmp_path / "herd.service"
    unit.write_text(text.replace(path, "/bin/true"))
    done = subprocess.run([analyse, "verify", str(unit)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
