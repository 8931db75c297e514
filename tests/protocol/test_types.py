"""The canonical types: their JSON form, and a target's defaults."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol import (
    Delta,
    Event,
    Failed,
    Finished,
    Message,
    ProtocolError,
    Request,
    Sampling,
    Started,
    TokenLogprob,
    Usage,
    event_from_json,
)


def there_and_back(value: Any) -> Any:
    return json.loads(json.dumps(value.to_json(), allow_nan=False))


logprob = st.builds(TokenLogprob, st.text(), st.integers(0), st.binary(max_size=4), st.floats(-100, 0))
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Started, st.integers(0), st.integers(0)),
    st.builds(Delta, st.integers(0, 7), st.text(), st.tuples(st.integers(0)), st.tuples(logprob)),
    st.builds(Finished, st.integers(0, 7), st.sampled_from(["stop", "length", "cancelled", "error"])),
    st.builds(Usage, st.integers(0), st.integers(0), st.integers(0)),
    st.builds(Failed, st.text(), st.text(), st.integers(400, 599)),
)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": -0.1},
        {"top_p": 5.0},
        {"top_k": -2},
        {"min_p": 1.1},
        {"seed": 2**80},
        {"max_tokens": -3},
        {"stop": ("",)},
        {"logprobs": 100_000},
    ],
    ids=str,
)
def test_sampling_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Sampling(**values)


@given(events)
def test_events_survive_json(event: Event) -> None:
    assert event_from_json(there_and_back(event)) == event


def test_a_request_survives_json() -> None:
    request = Request(
        "cria", "completion", prompt=(1, 2, 3), sampling=Sampling(temperature=0.0, seed=7, stop=("a",)),
        n=2, labels={"metadata": {"app": ["x", None]}}, explicit=frozenset({"seed", "stop", "temperature"}),
    )  # fmt: skip
    assert Request.from_json(there_and_back(request)) == request
    chat = Request("cria", "chat", (Message("system", "ü"), Message("user", "hi", "ada")))
    assert Request.from_json(there_and_back(chat)) == chat


def test_absent_fields_get_defaults_so_that_old_records_stay_readable() -> None:
    assert Request.from_json({"route": "cria", "kind": "chat"}) == Request("cria", "chat")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "nothing"},
        {"type": 5},
        {},
        {"type": "finished", "index": 0, "reason": "tired"},
        {"type": "finished", "index": True, "reason": "stop"},
        {"type": "delta", "index": 0, "text": 5},
        {"type": "delta", "index": 0, "text": "", "tokens": ["a"]},
        {"type": "usage", "prompt_tokens": 1, "completion_tokens": 1, "surprise": 1},
    ],
)
def test_what_is_no_event_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        event_from_json(value)


def test_a_target_fills_in_only_what_the_caller_left_open() -> None:
    request = Request(
        "bard",
        "chat",
        (Message("user", "hi"),),
        sampling=Sampling(temperature=0.2),
        explicit=frozenset({"temperature"}),
    )
    merged = request.for_target("You rhyme.", {"temperature": 0.9, "top_k": 40, "stop": ["\n\n"]})
    assert merged.messages == (Message("system", "You rhyme."), Message("user", "hi"))
    assert merged.sampling == Sampling(temperature=0.2, top_k=40, stop=("\n\n",))
    assert request.sampling.top_k == 0


def test_the_callers_system_message_replaces_the_targets() -> None:
    request = Request("bard", "chat", (Message("system", "Be brief."), Message("user", "hi")))
    assert request.for_target("You rhyme.", {}) == request
    assert Request("bard", "completion", prompt="Once").for_target("You rhyme.", {}).messages == ()


@pytest.mark.parametrize(
    "sampling", [{"temprature": 1}, {"top_k": 1.5}, {"stop": "x"}, {"temperature": "hot"}]
)
def test_a_target_that_is_wrong_is_the_servers_fault(sampling: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="target's sampling") as caught:
        Request("bard", "chat").for_target(None, sampling)
    assert caught.value.status == 500
