"""The transformer against `transformers`: scaled-down Llama 3 family with true head size, GQA ratio, θ and scaling."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from herd.model import hf
from herd.model.config import Config
from herd.model.kv import KVCache
from herd.model.llama import Llama
from herd.model.lora import add_lora, load_peft, merge, save_peft, set_lora
from herd.model.mask import document, prefix

FAMILIES = {  # head size, heads, key-value heads, factor, tied
    "3 8B": (128, 8, 2, None, False),
    "3.1 8B": (128, 8, 2, 8.0, False),
    "3.2 1B": (64, 8, 2, 32.0, True),
    "3.2 3B": (128, 6, 2, 32.0, True),
    "3.3 70B": (128, 8, 1, 8.0, False),
}


def reference(family: str, directory: Path, **save: object) -> LlamaForCausalLM:
    head, heads, kv, factor, tied = FAMILIES[family]
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    if factor:
        rope |= {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=16 * heads,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            head_dim=head,
            intermediate_size=256,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            max_position_embeddings=131072,
            tie_word_embeddings=tied,
        )
    ).eval()
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.08)
    model.save_pretrained(directory, **save)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", [0, 20_000])
@torch.no_grad()
def test_logits_are_those_of_transformers(family: str, start: int, tmp_path: Path):
    theirs, tokens = reference(family, tmp_path), torch.randint(0, 512, (2, 40))
    positions = torch.arange(start, start + 40).expand(2, 40)
    expected = theirs(tokens, position_ids=positions).logits
    found = hf.load(tmp_path)(tokens, positions=positions)
    limit = 1e-5 * max(1.0, expected.abs().max().item())
    assert (found - expected).abs().max() <= limit


@torch.no_grad()
def test_shards_in_and_out(tmp_path: Path):
    theirs = reference("3.2 1B", tmp_path / "a", max_shard_size="100KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    model = hf.load(tmp_path / "a")
    hf.save(model, tmp_path / "b", dtype=torch.float32, shard_bytes=100_000)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1
    again = LlamaForCausalLM.from_pretrained(tmp_path / "b", dtype=torch.float32).eval()
    tokens = torch.randint(0, 512, (1, 20))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)


@pytest.fixture
def model(tmp_path: Path) -> Llama:
    reference("3.2 1B", tmp_path / "m")
    return hf.load(tmp_path / "m")


@torch.no_grad()
def test_cache_gives_what_the_whole_gives(model: Llama):
    tokens = torch.randint(0, 512, (2, 30))
    cache = KVCache(model.config, 2, 30)
    pieces = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 11), (11, 12), (12, 30))]
    assert torch.allclose(torch.cat(pieces, 1), model(tokens), atol=1e-5)


@torch.no_grad()
def test_document_mask_is_each_document_alone(model: Llama):
    a, b = torch.randint(0, 512, (1, 9)), torch.randint(0, 512, (1, 14))
    packed = model(
        torch.cat((a, b), 1),
        document(torch.tensor([[0] * 9 + [1] * 14])),
        torch.cat((torch.arange(9), torch.arange(14)))[None],
    )
    assert torch.allclose(packed, torch.cat((model(a), model(b)), 1), atol=1e-5)


@torch.no_grad()
def test_prefix_mask_sees_both_ways_only_within_the_prefix(model: Llama):
    tokens = torch.randint(0, 512, (1, 12))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 512
    mask = prefix(torch.tensor([6]), 12)
    first, second = model(tokens, mask), model(changed, mask)
    assert not torch.allclose(first[0, 0], second[0, 0])  # position 0 sees position 5
    late = tokens.clone()
    late[0, 9] = (late[0, 9] + 1) % 512
    assert torch.equal(
        first[0, :9], model(late, mask)[0, :9]
    )  # nothing sees later than itself past the prefix


@torch.no_grad()
def test_lora_off_is_the_base_merged_is_the_adapted(model: Llama, tmp_path: Path):
    tokens = torch.randint(0, 512, (1, 16))
    base = model(tokens)
    add_lora(model, rank=4, alpha=8)
    assert torch.equal(model(tokens), base)
    for name, p in model.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(p, std=0.05)
    adapted = model(tokens)
    assert not torch.allclose(adapted, base, atol=1e-3)
    set_lora(model, False)
    assert torch.equal(model(tokens), base)
    set_lora(model, True)
    save_peft(model, tmp_path / "adapter", base="tiny@1")
    merge(model)
    assert torch.allclose(model(tokens), adapted, atol=1e-5)
    other = hf.load(tmp_path / "m")
    load_peft(other, tmp_path / "adapter")
    assert torch.allclose(other(tokens), adapted, atol=1e-6)


def test_loading_imports_no_compiler(tmp_path):
    """PyTorch brings its own, and sympy, to what is made without memory or drawn there: most of a second."""
    hf.save(Llama(Config(64, 16, 1, 2, 1, 8, 32)), tmp_path)
    code = "import sys; from herd.model import hf; hf.load(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert {"torch._dynamo", "sympy"}.isdisjoint(done.stdout.split())
