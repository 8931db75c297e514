"""Our own conformance suite finds nothing in our own server that is ignored or broken."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from herd.cli.probe import load, probe

from .conftest import KEY

# The dialects have these, and Herd says that it does not: each by name, in a 400.
REFUSED = {
    "errors.unknown field",
    "messages.unknown field",
    "format.impossible schema",
    "embeddings.dimensions",
}
# 120 tokens may not end an object that a model of ten million parameters fills with what it likes.
MAY_BE_CUT = {"format.json_object"}


@pytest.mark.slow
def test_herd_passes_its_own_probe(herd_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE", 60.0)
    done = CliRunner().invoke(probe, [herd_url, "--key", KEY, "--json"], standalone_mode=False)
    results = json.loads(done.stdout)["results"]
    states = {f"{r['group']}.{r['name']}": (r["state"], r["evidence"]) for r in results}
    odd = {name: told for name, told in states.items() if told[0] in ("ignored", "broken")}
    assert not odd
    assert {name for name, (state, _) in states.items() if state == "refused"} == REFUSED
    assert {name for name, (state, _) in states.items() if state == "untested"} <= MAY_BE_CUT
    assert done.return_value == 0
