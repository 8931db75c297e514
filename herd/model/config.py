"""The Llama 3 family's configuration, read from and written to Hugging Face's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from herd.errors import HerdError

WIDEST = 1 << 16  # inputs of a product: so many of 255 · 127 fit an int32
# Far above any Llama (405B: vocabulary 128,256, dim 16,384, 126 layers): a hostile file cannot ask for more.
_LIMITS = {
    "vocab_size": 1 << 20,
    "dim": WIDEST,
    "n_layers": 1024,
    "n_heads": 512,
    "n_kv_heads": 512,
    "head_dim": 1024,
    "ffn_dim": WIDEST,
    "max_positions": 1 << 24,
}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling: wavelengths above `original / low` are stretched by `factor`."""

    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


@dataclass(frozen=True)
class Config:
    """Shape of a Llama. `tied`: the head shares the embedding's weights. Raises HerdError when inconsistent."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    max_positions: int = 2048
    tied: bool = True
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                raise HerdError(f"config: {name} is {value!r}; it must be a whole number from 1 to {limit}")
        if self.n_heads % self.n_kv_heads:
            raise HerdError(
                f"config: {self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )
        if self.n_heads * self.head_dim > WIDEST:
            raise HerdError(
                f"config: {self.n_heads} heads of {self.head_dim} are more than {WIDEST} numbers together"
            )
        if self.head_dim % 2:
            raise HerdError(f"config: head_dim is {self.head_dim}; rotary embedding needs an even number")
        if not (0 < self.norm_eps < 1 and self.rope_theta > 0):
            raise HerdError("config: norm_eps must be between 0 and 1, and rope_theta positive")

    @property
    def parameters(self) -> int:
        """Number of weights, the tied head counted once."""
        attention = self.dim * self.head_dim * 2 * (self.n_heads + self.n_kv_heads)
        block = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.n_layers * block + self.vocab_size * self.dim * (1 if self.tied else 2) + self.dim

    @classmethod
    def from_hf(cls, table: Mapping[str, Any]) -> Config:
        """Read Hugging Face's form. Unknown architectures, biases and other scalings are refused, not guessed."""
        architecture = (table.get("architectures") or [table.get("model_type")])[0]
        if architecture not in ("LlamaForCausalLM", "llama"):
            raise HerdError(
                f"config: architecture {architecture!r} is not supported; Herd reads LlamaForCausalLM"
            )
        for key, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
            if table.get(key, only) != only:
                raise HerdError(f"config: {key} = {table[key]!r} is not supported; a Llama has {only!r}")
        try:
            heads = table["num_attention_heads"]
            eos = table.get("eos_token_id")
            # transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
            rope = table.get("rope_parameters") or {}
            return cls(
                vocab_size=table["vocab_size"],
                dim=table["hidden_size"],
                n_layers=table["num_hidden_layers"],
                n_heads=heads,
                n_kv_heads=table.get("num_key_value_heads") or heads,
                head_dim=table.get("head_dim") or table["hidden_size"] // heads,
                ffn_dim=table["intermediate_size"],
                norm_eps=float(table.get("rms_norm_eps", 1e-6)),
                rope_theta=float(table.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
                rope_scaling=_scaling(table.get("rope_scaling") or rope),
                max_positions=table.get("max_position_embeddings", 2048),
                tied=bool(table.get("tie_word_embeddings", False)),
                bos_id=table.get("bos_token_id"),
                eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            )
        except KeyError as error:
            raise HerdError(f"config: {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise HerdError(f"config: malformed ({error})") from None

    def to_hf(self) -> dict[str, Any]:
        """Hugging Face's form, readable by transformers 4 and 5."""
        scaling = None
        if s := self.rope_scaling:
            scaling = {
                "rope_type": "llama3",
                "factor": s.factor,
                "low_freq_factor": s.low,
                "high_freq_factor": s.high,
                "original_max_position_embeddings": s.original,
            }
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) or None,
            "torch_dtype": "bfloat16",
        }

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _scaling(table: Mapping[str, Any]) -> RopeScaling | None:
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise HerdError(f"config: rope scaling {kind!r} is not supported; Llama 3 uses 'llama3'")
    scaling = RopeScaling(
        factor=float(table["factor"]),
        low=float(table["low_freq_factor"]),
        high=float(table["high_freq_factor"]),
        original=int(table["original_max_position_embeddings"]),
    )
    if not (scaling.factor >= 1 and 0 < scaling.low < scaling.high and scaling.original > 0):
        raise HerdError(
            "config: rope scaling needs factor >= 1, 0 < low < high and a positive original length"
        )
    return scaling
