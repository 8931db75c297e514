"""A chat template of unknown origin, rendered in a child process: it is code, and may run or grow without end.

python -m herd.model.renderer     the child
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from herd.model.child import Child, serve
from herd.model.template import render

DEADLINE = 1.0  # seconds for a rendering
SUBJECT = "the chat template"


class Renderer:
    """One template and its child. Thread-safe."""

    def __init__(self, source: str) -> None:
        """Compiles the template, too. Raises HerdError when it is not valid."""
        self.source = source
        self._child = Child(__name__, DEADLINE, SUBJECT, "chat_template_failed")
        self.render(None)

    def render(self, variables: Mapping[str, Any] | None) -> str:
        """As `template.render`; also raises HerdError when it takes too long or needs too much memory."""
        return str(self._child.ask({"source": self.source, "variables": variables})["text"])


if __name__ == "__main__":
    serve(lambda request: {"text": render(**request)}, DEADLINE, SUBJECT)
