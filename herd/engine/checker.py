"""A grammar of unknown origin, compiled first in a child process: a deep one overflows the compiler's stack.

python -m herd.engine.checker     the child
"""

from __future__ import annotations

import re
import threading
from typing import Any

from herd.errors import HerdError
from herd.model.child import Child, serve

DEADLINE = 2.0  # seconds for a grammar
SUBJECT = "the grammar"
STACK = 1 << 20  # bytes: an eighth of what compiles it afterwards
# Work in a step and size, so that no grammar slows other replies down: a schema's rows are long, but never ambiguous.
LIMITS = {
    "schema": {"max_items_in_row": 2000, "step_max_items": 50_000},
    # The first states of nested repetitions cost far more than a schema's for the same fuel.
    "grammar": {"max_items_in_row": 400, "step_max_items": 10_000, "initial_lexer_fuel": 300_000},
}
COMMON = {"step_lexer_fuel": 200_000, "max_lexer_states": 20_000, "max_grammar_size": 200_000}


class Checker:
    """What the child is asked. Thread-safe."""

    def __init__(self) -> None:
        self._child = Child(__name__, DEADLINE, SUBJECT, "invalid_grammar")

    def check(self, source: str, limits: str) -> None:
        """Raises HerdError when `source` does not compile within the bounds."""
        self._child.ask({"source": source, "limits": limits})

    def convert(self, text: str) -> str:
        """GBNF as Lark; what is Lark already stays as it is. Raises HerdError when it is neither."""
        return str(self._child.ask({"convert": text})["lark"])


def compiled(tokenizer: Any, source: str, limits: str) -> Any:
    """llguidance's matcher. Raises HerdError for a grammar that is wrong, or too much work at once."""
    from llguidance import LLMatcher, LLParserLimits

    bounds = LLParserLimits(**LIMITS[limits], **COMMON, verbose_errors=False)  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=bounds)
    if not matcher.is_error():
        matcher.compute_bitmask()  # the first step builds what the others use
    if matcher.is_error():
        why = _reason(matcher.get_error())
        what = "the schema, or a tool's," if limits == "schema" else "the grammar"
        raise HerdError(f"{what} cannot be compiled: {why}", code="invalid_grammar")
    return matcher


def _reason(error: str) -> str:
    """The compiler's message, on one line and without the grammar's text."""
    lines = [line.strip() for line in error.splitlines() if not re.match(r"\s*(\d+ \||\^+\s*$|$)", line)]
    text = re.sub(r"^at \d+\(\d+\): | ?<non-verbose/>", "", " ".join(lines))
    return text.partition(" Enable ")[0][:300] or "it does not compile"  # of its own options


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}

    def work() -> None:
        from llguidance import LLTokenizer

        try:
            if "convert" in request:
                result["lark"] = _converted(request["convert"])
            else:
                compiled(LLTokenizer("byte"), request["source"], request["limits"])
        except HerdError as error:
            result["error"] = str(error)
        except BaseException as error:  # a panic of the compiler's is not an Exception
            result["error"] = f"the grammar cannot be compiled ({type(error).__name__})"

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result


def _converted(text: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(text))
    except RecursionError:
        raise HerdError("the grammar is nested too deep") from None
    except Exception as error:  # whatever a converter may meet
        raise HerdError(f"the grammar is neither Lark nor GBNF: {_reason(str(error))}") from None


if __name__ == "__main__":
    threading.stack_size(STACK)
    serve(_answer, DEADLINE, SUBJECT)
