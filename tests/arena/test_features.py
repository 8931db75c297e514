"""The style of replies and the categories of prompts, by rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.arena.features import LONG, categories, language, style

MARKDOWN = """\
# One
Some **bold** words, and __more__ of them; snake__case__name and 2 ** 3 are none.

- a
* b
  + c
1. d
2) e
-no item

```python
# no header
- no item
**no bold**
```
## Two
"""


def test_style_counts_markdown_outside_code() -> None:
    assert style(MARKDOWN) == [len(MARKDOWN), 2, 5, 2]
    assert style("") == [0, 0, 0, 0]
    assert style("```\n# not closed\n- a") == [20, 0, 0, 0]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["Write a Python function that sorts a list of names, please."], {"code", "language/English"}),
        (["What is 12 * 7 + 3?"], {"maths"}),
        (["Solve the equation x^2 = 2 and say what the roots are."], {"maths", "language/English"}),
        (["Tell me a story about a dog and a ball.", "And then?"], {"multi-turn", "language/English"}),
        (["Schreibe mir bitte ein kurzes Gedicht über den Herbst im Wald."], {"language/German"}),
        (["Écris une courte histoire à propos d'un chien et d'une balle rouge."], {"language/French"}),
        (["给我讲一个关于小狗和红色皮球的故事，要短一点，适合五岁的孩子。"], {"language/Chinese"}),
        (["Расскажи мне короткую историю о собаке и красном мяче."], {"language/Russian"}),
        (["We met on 2024-11-05 and/or later."], set()),
        (["hi"], set()),
        (["1+1"], {"maths"}),
        (["x" * LONG], {"long prompt"}),
    ],
)
def test_categories(prompts: list[str], expected: set[str]) -> None:
    found = categories(prompts)
    assert set(found) - {"language/English"} == expected - {"language/English"}
    assert len(found) == len(set(found))
    if "language/English" in expected:
        assert "language/English" in found


def test_an_applications_own_come_with_their_mark() -> None:
    assert categories(["hi"], ["refunds", "language/French"]) == ["tag/refunds", "tag/language/French"]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_features(text: str) -> None:
    assert all(count >= 0 for count in style(text)) and style(text)[0] == len(text)
    assert language(text) is None or isinstance(language(text), str)
