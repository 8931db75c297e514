"""transformers: bf16, SDPA attention, a dynamic cache, a batch that is formed of what waits when the last one ends.

Where the CPU could only emulate products of bf16, the same weights in fp32, which is several times faster there.

The loop is `generate`'s without what greedy decoding does not need; it cannot admit a request while others run.
"""

from importlib.metadata import version
from pathlib import Path

import torch
import transformers

MAX_BATCH = 32


class Engine:
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
        self.model = transformers.LlamaForCausalLM.from_pretrained(Path(folder) / "hf", dtype=dtype).eval()
        self.versions = f"transformers {version('transformers')} in {dtype}, torch {torch.__version__}"
        self.waiting: list[tuple[int, list[int], int]] = []
        self.running: list[tuple[int, int]] = []  # id, tokens that it still wants

    def prepare(self, streams: int, length: int) -> None: ...

    def add(self, id: int, prompt: list[int], new: int) -> None:
        self.waiting.append((id, prompt, new))

    @torch.inference_mode()
    def step(self) -> list[int]:
        if not any(left for _, left in self.running):
            batch, self.waiting = self.waiting[:MAX_BATCH], self.waiting[MAX_BATCH:]
            longest = max(len(prompt) for _, prompt, _ in batch)
            self.tokens = torch.tensor([[0] * (longest - len(p)) + p for _, p, _ in batch])
            self.mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for _, p, _ in batch])
            self.padded = bool((self.mask == 0).any())
            self.cache = transformers.DynamicCache(config=self.model.config)
            self.running = [(id, new) for id, _, new in batch]
            places = self.mask.cumsum(1).sub(1).clamp_min(0)
        else:
            places = self.mask.sum(1, keepdim=True)
            self.mask = torch.cat((self.mask, torch.ones_like(self.tokens)), 1)
        out = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask if self.padded else None,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        made = [id for id, left in self.running if left]
        self.running = [(id, max(left - 1, 0)) for id, left in self.running]
        return made

    def stop(self) -> None:
        self.waiting.clear()
        self.running.clear()
