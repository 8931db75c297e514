"""The Llama 3 transformer.

Shapes: B batch, T positions, C = dim, H heads, K key-value heads, D head size, V vocabulary. Rotary embedding uses
Hugging Face's half-split layout (Meta's own checkpoints interleave pairs; their wq, wk are permuted on conversion).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.model.config import Config
from herd.model.kv import KVCache
from herd.model.mask import Attend, Mask, attend, causal

Rope = tuple[Tensor, Tensor]  # cos, sin: [B,1,T,D]


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        # To draw numbers for no memory, PyTorch would import its compiler, which takes most of a second.
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Linear):
    """A bias-free linear layer that computes in the type of its input: masters stay fp32, products run in bf16."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight, the mean taken in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * h.to(x.dtype)


def frequencies(config: Config) -> Tensor:
    """Rotary frequencies [D/2] in radians a position, scaled as in Llama 3.1 when the configuration asks for it.

    With wavelength λ and smooth = (original/λ − low) / (high − low): λ < original/high keeps its frequency, λ >
    original/low is divided by `factor`, and what lies between is interpolated. On the CPU, also while a model is made
    without memory.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device="cpu").float() / config.head_dim
    freq = 1.0 / config.rope_theta**half
    if (s := config.rope_scaling) is None:
        return freq
    wavelength = 2 * math.pi / freq
    smooth = (s.original / wavelength - s.low) / (s.high - s.low)
    between = (1 - smooth) * freq / s.factor + smooth * freq
    scaled = torch.where(wavelength > s.original / s.low, freq / s.factor, between)
    return torch.where(wavelength < s.original / s.high, freq, scaled)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate each pair (x[i], x[i + D/2]) by its position's angle. x: [B,H,T,D]."""
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.n_heads, self.n_kv_heads, self.head_dim = c.n_heads, c.n_kv_heads, c.head_dim
        self.q = Linear(c.dim, c.n_heads * c.head_dim)
        self.k = Linear(c.dim, c.n_kv_heads * c.head_dim)
        self.v = Linear(c.dim, c.n_kv_heads * c.head_dim)
        self.o = Linear(c.n_heads * c.head_dim, c.dim)

    def forward(self, layer: int, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        y = attend(layer, rotate(q, rope), rotate(k, rope), v)
        return self.o(y.transpose(1, 2).reshape(B, T, -1))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Linear(config.dim, config.ffn_dim)
        self.up = Linear(config.dim, config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the stream. How positions see each other is passed in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.dim, config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, layer: int, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
        x = x + self.attn(layer, self.attn_norm(x), rope, attend)
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """Token ids in, logits out. `dtype` is what activations are computed in; weights may be kept wider."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head: nn.Module | None = None if config.tied else Linear(config.dim, config.vocab_size)
        self.dtype: torch.dtype | None = None
        self.register_buffer("freq", frequencies(config), persistent=False)
        self.freq: Tensor

    def init_weights(self, seed: int) -> None:
        """Normal(0, 0.02), the layers that write to the stream scaled by 1/√(2L) (GPT-2)."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        out = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = out if name.endswith(("attn.o.weight", "ffn.down.weight")) else 0.02
                value = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
                parameter.data.copy_(value)

    def rope(self, positions: Tensor, dtype: torch.dtype) -> Rope:
        """cos and sin [B,1,T,D] for positions [B,T], computed in fp32."""
        angle = positions[..., None].float() * self.freq.float()
        angle = torch.cat((angle, angle), dim=-1)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final normalised states [B,T,C] of tokens [B,T]; `attend` decides what they see (and keeps a cache)."""
        x = self.embed(tokens)
        if self.dtype is not None:
            x = x.to(self.dtype)
        rope = self.rope(positions, x.dtype)
        for i, block in enumerate(self.layers):
            x = block(i, x, rope, attend)
        return self.norm(x)  # type: ignore[no-any-return]

    @property
    def head_weight(self) -> Tensor:
        return self.embed.weight if self.lm_head is None else self.lm_head.weight  # type: ignore[return-value]

    def head(self, h: Tensor) -> Tensor:
        """Logits [..., V] of states [..., C]."""
        if self.lm_head is None:
            return F.linear(h, self.embed.weight.to(h.dtype))
        return self.lm_head(h)  # type: ignore[no-any-return]

    def forward(
        self,
        tokens: Tensor,
        mask: Mask | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits [B,T,V] of tokens [B,T].

        positions [B,T] default to counting on from the cache; a cache implies a causal mask.
        """
        B, T = tokens.shape
        if positions is None:
            start = cache.length if cache else 0
            positions = torch.arange(start, start + T, device=tokens.device).expand(B, T)
        h = self.hidden(tokens, positions, cache.attend if cache else attend(mask or causal()))
        if cache:
            cache.length += T
        return self.head(h)
