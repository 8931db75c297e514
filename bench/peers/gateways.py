"""How bench/gateway.py starts each gateway, with what it can do of keys, a ledger and kept replies. README.md says what is off."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.request import Request, urlopen

ROOT = "sk-root-of-the-bench"  # the administrator's key, of servers on this machine for some minutes


class Gateway(Protocol):
    name: str
    python: str  # an interpreter that has it
    distributions: tuple[str, ...]
    imports: str  # what its server imports
    alive: str  # a path that answers 200 once it serves
    model: str
    rows: tuple[str, str] | None  # the database in its folder, and its table with a row a request

    def command(self, folder: Path, port: int, upstream: str) -> tuple[list[str], dict[str, str]]:
        """Writes its configuration to `folder`; what to run there, and further environment."""
        ...

    def key(self, url: str) -> str:
        """A key for the load, made by its own API."""
        ...


def _post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ROOT}"}
    with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=30) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


@dataclass
class Herd:
    python: str
    name: str = "Herd"
    distributions: tuple[str, ...] = ("openherd", "fastapi", "uvicorn", "aiohttp")
    imports: str = "herd.server.serve, herd.server.app"
    alive: str = "/health"
    model: str = "bench"
    rows: tuple[str, str] | None = ("herd.db", "attempts")

    def command(self, folder: Path, port: int, upstream: str) -> tuple[list[str], dict[str, str]]:
        (folder / "herd.toml").write_text(f"""
[providers.mock]
dialect = "openai"
base_url = "{upstream}"
key = "env:MOCK_KEY"
private = true
[targets.answer]
provider = "mock"
model = "mock"
price = {{ input = 0.15, output = 0.6 }}
[routes.bench]
targets = ["answer"]
keep = "text"
""")
        environment = {"HERD_HOME": str(folder), "HERD_API_KEY": ROOT, "MOCK_KEY": "none"}
        return [self.python, "-m", "herd", "serve", "--port", str(port)], environment

    def key(self, url: str) -> str:
        limits = [
            {"unit": "dollars", "amount": 1000 * 10**12, "period": "month"},
            {"unit": "requests", "amount": 10_000_000, "period": "day"},
        ]
        asked = {"application": "bench", "scopes": ["use:bench"], "limits": limits}
        return str(_post(f"{url}/api/keys", asked)["secret"])


@dataclass
class LiteLLM:
    python: str
    workers: int = 1
    distributions: tuple[str, ...] = ("litellm", "fastapi", "uvicorn")
    imports: str = "litellm.proxy.proxy_server"
    alive: str = "/health/liveliness"
    model: str = "bench"
    rows: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return "litellm" if self.workers == 1 else f"litellm, {self.workers} workers"

    def command(self, folder: Path, port: int, upstream: str) -> tuple[list[str], dict[str, str]]:
        parameters = {"model": "openai/mock", "api_base": upstream, "api_key": "none"}
        parameters |= {"input_cost_per_token": 0.15e-6, "output_cost_per_token": 0.6e-6}  # type: ignore[dict-item]
        settings = {
            "model_list": [{"model_name": "bench", "litellm_params": parameters}],
            "general_settings": {"master_key": ROOT},
            "litellm_settings": {"telemetry": False},
        }
        (folder / "config.yaml").write_text(json.dumps(settings))
        script = str(Path(self.python).with_name("litellm"))
        command = [script, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        # Its documented settings for production: no debug log, the bundled table of prices.
        environment = {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        return [*command, "--num_workers", str(self.workers)], environment

    def key(self, url: str) -> str:
        return ROOT  # without its database it has no others


@dataclass
class Otari:
    python: str
    name: str = "otari"
    distributions: tuple[str, ...] = ("any-llm-sdk", "fastapi", "uvicorn")
    imports: str = "gateway.main"
    alive: str = "/health"
    model: str = "openai:mock"
    rows: tuple[str, str] | None = ("otari.db", "usage_logs")

    def command(self, folder: Path, port: int, upstream: str) -> tuple[list[str], dict[str, str]]:
        price = {"input_price_per_million": 0.15, "output_price_per_million": 0.6}
        settings = {
            "database_url": "sqlite:///./otari.db",
            "master_key": ROOT,
            "host": "127.0.0.1",
            "providers": {"openai": {"api_key": "none", "api_base": upstream}},
            "pricing": {"openai:mock": price},
        }
        (folder / "config.yml").write_text(json.dumps(settings))
        script = str(Path(self.python).with_name("otari"))
        # Its own line a request in the log stays on, as Herd's does.
        return [script, "serve", "--config", "config.yml", "--port", str(port)], {}

    def key(self, url: str) -> str:
        budget = _post(f"{url}/v1/budgets", {"max_budget": 1000})["budget_id"]
        _post(f"{url}/v1/users", {"user_id": "bench", "budget_id": budget})
        return str(_post(f"{url}/v1/keys", {"key_name": "bench", "user_id": "bench"})["key"])


def clean_environment() -> dict[str, str]:
    """Nothing of the caller's settings and secrets reaches a gateway."""
    ours = ("HERD_", "LITELLM_", "OTARI_", "OPENAI_", "ANTHROPIC_", "DATABASE_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
