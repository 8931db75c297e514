"""A chat template of unknown origin is bounded in time and memory, and says otherwise what ours would say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest

from herd.errors import HerdError
from herd.model import child, renderer
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.renderer import Renderer
from herd.model.template import BUNDLED, digest, render

CHAT = [{"role": "user", "content": 'Grüße <&"\n\u2028 🦙 \ud800'}, {"role": "assistant", "content": "b"}]
FOREIGN = LLAMA3_TEMPLATE + "{# a comment makes it another's #}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)
HOSTILE = {
    LOOPS: "longer than 1 s",
    DOUBLING: "256 MiB|longer than 1 s",  # whichever comes first
    "{{ 'a' * 500000000 }}": "256 MiB",
    "{{ '%999999999d' % 1 }}": "256 MiB",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ 1 / 0 }}": "division by zero",
    "{{ raise_exception('only\ntools ' * 99) }}": "refused the messages: only tools",
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "DEADLINE", 60.0)


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_refused_in_bounded_time(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "DEADLINE", 1.0 if "longer" in HOSTILE[source] else 60.0)
    # The template is harmless until the message asks for it, so that the child has started when the clock does.
    template = ChatTemplate("{% if messages[0].content == 'go' %}" + source + "{% else %}fine{% endif %}")
    began = time.monotonic()
    with pytest.raises(HerdError, match=HOSTILE[source]) as refused:
        template.render([{"role": "user", "content": "go"}])
    assert time.monotonic() - began < 30  # 1 s, and a busy machine
    assert refused.value.status == 400 and "chat template" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 300
    assert template.render(CHAT) == "fine"  # by the same child, or by the next


def test_a_template_that_writes_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_REPLY", 1 << 20)
    template = ChatTemplate("{{ 'a' * (messages | length) * 400000 }}")
    assert len(template.render(CHAT)) == 800_000
    with pytest.raises(HerdError, match="writes more than 1 MiB"):
        template.render(CHAT * 2)
    assert len(template.render(CHAT)) == 800_000


@pytest.mark.parametrize("source", ["{% if", "{{ " + "(" * 9999 + ")" * 9999 + " }}", "{% if x %}" * 5000])
def test_an_invalid_template_is_refused_when_it_is_loaded(source: str) -> None:
    with pytest.raises(HerdError, match="not valid Jinja"):
        ChatTemplate(source)


def test_the_child_renders_what_this_process_renders() -> None:
    for source in (
        FOREIGN,
        "{{ messages | tojson(indent=2) }}{{ n }}{% for m in messages %}{{ m.role }}{% endfor %}",
    ):
        variables = {
            "messages": CHAT,
            "bos_token": "<s>",
            "add_generation_prompt": True,
            "n": [1, 2.5, None, True],
        }
        assert Renderer(source).render(variables) == render(source, variables)
    assert ChatTemplate(FOREIGN).render(CHAT) == ChatTemplate(LLAMA3_TEMPLATE).render(CHAT)


def test_only_our_own_templates_render_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (files("herd") / "bundled" / "models").glob("*/*/tokenizer_config.json"):  # type: ignore[attr-defined]
        assert digest(json.loads(config.read_text())["chat_template"]) in BUNDLED

    def no_child(*_: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(renderer, "Child", no_child)
    ChatTemplate(LLAMA3_TEMPLATE).render(CHAT)
    with pytest.raises(AssertionError):
        ChatTemplate(FOREIGN)


def test_one_child_serves_until_it_is_killed_and_then_another(tmp_path: Path) -> None:
    slow = Renderer("{% if go %}" + LOOPS + "{% endif %}{{ x }}")
    first = slow._child._process
    assert first and [slow.render({"x": i}) for i in range(3)] == ["0", "1", "2"]
    assert slow._child._process is first
    slow._child._deadline = 1.0
    with pytest.raises(HerdError, match="longer"):
        slow.render({"go": True})
    slow._child._deadline = 60.0
    assert first.returncode is not None
    assert slow.render({"x": 1}) == "1" and slow._child._process is not first
    os.kill(slow._child._process.pid, 9)  # by somebody else, while it waits
    slow._child._process.wait()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(slow.render, [{"x": i} for i in range(99)])) == [str(i) for i in range(99)]
    last = slow._child._process
    del slow
    assert last.returncode is not None  # it goes with its template


def test_a_child_whose_parent_dies_ends_though_it_renders() -> None:
    program = (
        "import sys, threading, time\n"
        "from herd.model.renderer import Renderer\n"
        f"slow = Renderer({'{% if go %}' + LOOPS + '{% endif %}'!r})\n"
        "threading.Thread(target=slow.render, args=({'go': True},), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "print(slow._child._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = Path("/proc") / parent.stdout.readline().strip() / "stat"
        parent.kill()
    end = time.monotonic() + 60
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_child_needs_no_torch() -> None:
    code = (
        "import sys, herd.model.renderer; sys.exit(bool({'torch', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
