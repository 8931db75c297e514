"""A small set of shards and a recipe over it."""

from pathlib import Path

import numpy as np
import pytest

from herd.data.shards import Shards
from herd.model.tokenizer import train_bpe

STORY = "Once upon a time there was a little bear who loved honey. One day the bear met a bee. "


def write_recipe(directory: Path, **changes: object) -> Path:
    """Data, tokenizer and `recipe.toml` in `directory`."""
    from herd.data.prepare import prepare
    from herd.data.spec import DataSpec

    tokenizer = train_bpe([STORY] * 20, 320)
    (directory / "tok").mkdir()
    tokenizer.save(directory / "tok")
    rng = np.random.default_rng(0)
    words = STORY.split()
    lines = ['{"text": "' + " ".join(rng.choice(words, 40)) + '"}' for _ in range(200)]
    (directory / "text.jsonl").write_text("\n".join(lines))
    (directory / "data.toml").write_text(
        'tokenizer = "tok"\nheldout = 0.1\n[dedup]\nexact = false\n'
        '[[sources]]\nname = "words"\npath = "text.jsonl"\nlicence = "none"\n'
    )
    prepare(DataSpec.load(directory / "data.toml"), directory / "shards", workers=1)
    assert Shards.open(directory / "shards" / "train").n_tokens > 1000
    settings = {
        "steps": 12,
        "batch": 4,
        "seq_len": 32,
        "save_every": 3,
        "eval_every": 6,
        "dtype": "float32",
    } | changes
    text = 'name = "tiny"\nobjective = "pretrain"\nheldout = "shards/heldout"\n'
    text += "".join(
        f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}\n" for k, v in settings.items()
    )
    text += (
        '[model]\ntokenizer = "tok"\ndim = 32\nlayers = 2\nheads = 2\nkv_heads = 1\nhead_dim = 16\nffn = 64\n'
    )
    text += 'context = 64\n[schedule]\nwarmup = 2\n[optimizer]\nlr = 0.01\nkind = "muon"\n'
    text += '[[data]]\npath = "shards/train"\n'
    (directory / "recipe.toml").write_text(text)
    return directory / "recipe.toml"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)
