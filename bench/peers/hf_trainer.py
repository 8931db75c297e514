"""A peer of bench/train_cpu.py: `transformers.Trainer` on LlamaForCausalLM, SDPA attention, fused AdamW."""

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from herd.model.config import Config


class _Clock(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


class Peer:
    """A Trainer that goes on with the same model; `run(steps)` gives the seconds of each step but the first."""

    def __init__(
        self, config: Config, rows: Tensor, batch: int, folder: Path, *, bf16: bool, compiled: bool
    ) -> None:
        """rows: [N,T] token ids."""
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config.to_hf()))
        model.config.use_cache = False
        self.data = [{"input_ids": row, "labels": row} for row in rows]
        self.model, self.batch, self.folder = model, batch, folder
        self.bf16, self.compiled = bf16, compiled

    def run(self, steps: int) -> list[float]:
        clock = _Clock()
        arguments = transformers.TrainingArguments(
            output_dir=str(self.folder),
            max_steps=steps + 1,
            per_device_train_batch_size=self.batch,
            bf16=self.bf16,
            use_cpu=True,
            optim="adamw_torch_fused",
            torch_compile=self.compiled,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_drop_last=True,
        )
        trainer = transformers.Trainer(self.model, arguments, train_dataset=self.data, callbacks=[clock])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        torch.set_grad_enabled(True)
        return clock.seconds[1:]
