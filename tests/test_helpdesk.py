"""One application, unchanged, before three kinds of backend; only the route changes, in the file, while the server runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .behind import upstream

EXAMPLES = Path(__file__).parents[1] / "examples"
FILED = '{"topic": "order", "urgent": true}'


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_helpdesk_before_three_backends(start_herd: Any, tmp_path: Path) -> None:
    home, words = tmp_path / "home", (FILED[:9], FILED[9:])
    home.mkdir()
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HERD_", "OPENAI_", "ANTHROPIC_"))
    }
    env["HERD_HOME"] = str(home)
    with upstream(words=words) as far:
        text = (EXAMPLES / "helpdesk.toml").read_text().replace("http://127.0.0.1:9000/v1", far.url)
        text = text.replace("http://127.0.0.1:9000", far.url.removesuffix("/v1"))
        choices = re.findall(r'^(?:# )?targets = (\["[^"]+"\])', text, re.MULTILINE)
        assert choices == ['["cria"]', '["vllm/llama-3.3-70b"]', '["claude/claude-haiku-4-5"]']

        def turn_to(choice: str) -> None:
            whole = re.sub(r"^targets = .*$", f"targets = {choice}", text, flags=re.MULTILINE)
            (home / "herd.toml").write_text(whole)

        turn_to(choices[0])
        url = start_herd([sys.executable, "-m", "herd", "serve"], env, tmp_path)

        def helpdesk() -> str:
            ours = env | {
                "OPENAI_BASE_URL": f"{url}/v1",
                "OPENAI_API_KEY": "none",
                "HELPDESK_MODEL": "helpdesk",
            }
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / "helpdesk.py")],
                env=ours, input="Where is my spade?\n", capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        answer, ticket = helpdesk().rsplit("\n[", 1)
        assert answer.strip() and FILED not in answer
        assert re.fullmatch(r"(order|return|product|other)(, urgent)?\]\n", ticket)
        for choice, path in zip(choices[1:], ("/v1/chat/completions", "/v1/messages"), strict=True):
            before = len(far.seen)
            turn_to(choice)
            end = time.monotonic() + 120
            while len(far.seen) == before and time.monotonic() < end:  # the file is looked at now and then,
                helpdesk()  # perhaps between this run's answer and its ticket
            before = len(far.seen)
            assert helpdesk() == f"{FILED}\n[order, urgent]\n"
            model = choice.partition("/")[2].rstrip('"]')
            asked = [one for one in far.seen[before:] if one.method == "POST"]
            assert {(one.path, one.body["model"]) for one in asked} == {(path, model)}
            assert [bool(one.body.get("stream")) for one in asked] == [True, False]
