"""Hugging Face model directories, in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herd.errors import HerdError
from herd.model.chat import ChatTemplate
from herd.model.config import Config
from herd.model.files import mapped, write_tensors
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

# Our module names within a block → Hugging Face's.
MODULES = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_IGNORED = frozenset({"model.rotary_emb.inv_freq"})
MAX_JSON = 16 << 20


def hf_name(name: str) -> str:
    """`layers.0.attn.q.weight` → `model.layers.0.self_attn.q_proj.weight`."""
    if name in _TOP:
        return _TOP[name]
    layers, index, rest = name.split(".", 2)
    module, _, leaf = rest.rpartition(".")
    return f"model.{layers}.{index}.{MODULES[module]}.{leaf}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size, or HerdError in one line."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise HerdError(f"{path}: larger than {MAX_JSON >> 20} MiB; refused")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HerdError(f"{path}: no such file", status=404) from None
    except (ValueError, RecursionError) as error:
        raise HerdError(f"{path}: not valid JSON ({str(error)[:80]})") from None
    if not isinstance(value, dict):
        raise HerdError(f"{path}: expected a JSON object")
    return value


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise HerdError(f"{index}: weight_map is missing or malformed")
        names = sorted(set(table.values()))
        if any(Path(n).name != n or not n.endswith(".safetensors") for n in names):
            raise HerdError(f"{index}: names a file outside its directory")
        return [directory / n for n in names]
    if (single := directory / "model.safetensors").exists():
        return [single]
    if any(directory.glob("*.bin")) or any(directory.glob("*.pth")):
        raise HerdError(f"{directory}: only pickled weights here; Herd reads safetensors (convert it first)")
    raise HerdError(f"{directory}: no model.safetensors here", status=404)


def load(
    directory: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    copy: bool = True,
) -> Llama:
    """A Llama from a directory. Weights are memory-mapped and copied one at a time into place.

    dtype: of weights and activations (default fp32). copy=False leaves those that are of this type where they lie in
    the file, for a caller that makes something else of them at once. Raises HerdError for whatever is malformed.
    """
    directory = Path(directory)
    config = Config.from_hf(read_json(directory / "config.json"))
    files = _weight_files(directory)
    with torch.device("meta"):
        model = Llama(config)
    ignore = set(_IGNORED) | ({"lm_head.weight"} if config.tied else set())
    _fits(config, files, directory)
    names = {hf_name(name): name for name, _ in model.named_parameters()}
    shapes = {theirs: model.get_parameter(ours).shape for theirs, ours in names.items()}
    tensors = mapped(files, shapes, ignore=frozenset(ignore))
    weights = {names[n]: t.to(device, dtype or torch.float32, copy=copy) for n, t in tensors}
    model.load_state_dict(weights, assign=True)
    model.freq = model.freq.to(device)
    model.dtype = dtype
    return model.eval()


def _fits(config: Config, files: list[Path], directory: Path) -> None:
    """A config that asks for more weights than its files hold is refused before memory is taken."""
    try:
        size = sum(f.stat().st_size for f in files)
    except FileNotFoundError as error:
        raise HerdError(f"{error.filename}: no such file, though the index names it", status=404) from None
    if config.parameters > size:  # at least one byte a weight
        raise HerdError(
            f"{directory}: config.json wants {config.parameters:,} weights, the files hold {size:,} bytes"
        )


def save(
    model: Llama,
    directory: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    template: ChatTemplate | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = 5 << 30,
) -> None:
    """Write a directory that `transformers` reads: weights in shards, config, tokenizer and chat template."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {hf_name(n): p.detach().to("cpu", dtype).contiguous() for n, p in model.named_parameters()}
    shards = _shards(tensors, shard_bytes)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = (
            "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        )
        write_tensors(directory / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(t.nbytes for t in tensors.values())
        _write(
            directory / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )
    config = model.config.to_hf() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    _write(directory / "config.json", config)
    generation = {"bos_token_id": model.config.bos_id, "eos_token_id": list(model.config.eos_ids)}
    _write(directory / "generation_config.json", {k: v for k, v in generation.items() if v not in (None, [])})
    if tokenizer:
        tokenizer.save(directory)
        _write(directory / "tokenizer_config.json", _tokenizer_config(tokenizer, template, model.config))


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if used and used + tensor.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    return shards


def _tokenizer_config(tokenizer: Tokenizer, template: ChatTemplate | None, config: Config) -> dict[str, Any]:
    table: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_positions,
    }
    table = {k: v for k, v in table.items() if not k.endswith("_token") or v in tokenizer.special}
    return table | ({"chat_template": template.source} if template else {})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
