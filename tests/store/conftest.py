"""A store in a file of its own, and a conversation with two replies."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from herd.store import Store


def _row(id: str, conversation: str | None = "c", text: str = "hello", **changes: Any) -> dict[str, Any]:
    request = {
        "route": "cria",
        "kind": "chat",
        "messages": [{"role": "user", "content": "question", "name": None}],
        "sampling": {"seed": 7},
    }
    row = {
        "id": id,
        "conversation": conversation,
        "route": "cria",
        "target": "cria",
        "target_digest": "d" * 64,
        "model_ref": "cria@1",
        "request": request,
        "reply": text,
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "cached_tokens": 0,
        "queue_ms": 1.5,
        "first_token_ms": 20.0,
        "total_ms": 90.25,
        "finish": "stop",
        "labels": {"user": "somebody"},
    }
    return {**row, **changes}


@pytest.fixture
def generation() -> Callable[..., dict[str, Any]]:
    """Makes rows of the generations table."""
    return _row


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store.open(database)
    yield store
    store.close()


@pytest.fixture
def talk(store: Store) -> Store:
    """Conversation c: a question, and the replies g1 and g2 to it, both written out as messages."""
    store.create_conversation(id="c", title="Title", route="cria", system="Be kind.", settings={"top_p": 0.9})
    store.add_message(conversation="c", id="m1", role="user", content="question")
    for name in ("g1", "g2"):
        store.add_generation(_row(name, text=f"answer {name}"))
        store.add_message(
            conversation="c",
            id=f"m-{name}",
            parent="m1",
            role="assistant",
            content=f"answer {name}",
            generation=name,
        )
    return store
