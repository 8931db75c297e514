"""openvino-genai's ContinuousBatchingPipeline, prefix cache off, as its own benchmark drives it."""

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai


class Engine:
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1  # GB
        scheduler.max_num_seqs = 32
        scheduler.max_num_batched_tokens = 512
        scheduler.enable_prefix_caching = False
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        path = Path(folder) / f"openvino-{precision}"
        self.pipe = genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", options)
        self.versions = f"openvino-genai {version('openvino-genai')}"
        self.handles: dict[int, genai.GenerationHandle] = {}
        self.ids = 0

    def prepare(self, streams: int, length: int) -> None: ...

    def add(self, id: int, prompt: list[int], new: int) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        config.set_eos_token_id(0)  # there has to be one; it is ignored
        self.ids += 1
        tokens = ov.Tensor(np.array([prompt], dtype=np.int64))
        self.handles[id] = self.pipe.add_request(self.ids, tokens, config)

    def step(self) -> list[int]:
        self.pipe.step()
        made = []
        for id, handle in self.handles.items():
            while handle.can_read():
                for output in handle.read().values():
                    made += [id] * len(output.generated_ids)
        return made

    def stop(self) -> None:
        for handle in self.handles.values():
            handle.cancel()
        self.handles.clear()
        end = time.monotonic() + 30
        while self.pipe.has_non_finished_requests() and time.monotonic() < end:
            self.pipe.step()
