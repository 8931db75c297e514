"""llama.cpp through llama-cpp-python's low-level calls: batches as its server makes them.

A step is one `llama_decode`: a token of each running sequence, and prompts up to CHUNK tokens. The likeliest token is
found by NumPy, which is faster than llama.cpp's own sampler chain. All sequences share one KV buffer (`kv_unified`): with
a stream each, only neighbouring numbers that come in order go through the weights together, and the speed was no higher.
"""

import ctypes
from importlib.metadata import version
from pathlib import Path

import llama_cpp as L
import numpy as np

CHUNK = 512


class Engine:
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        L.llama_backend_init()
        params = L.llama_model_default_params()
        path = Path(folder) / f"{precision}.gguf"
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"{path} cannot be loaded")
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.threads = threads
        self.context, self.size = None, (0, 0)
        self.batch = L.llama_batch_init(2048, 0, 1)
        self.versions = f"llama-cpp-python {version('llama-cpp-python')}"
        self.running: dict[int, list[int]] = {}  # id → [slot, position, prompt read, tokens left]
        self.prompts: dict[int, list[int]] = {}
        self.next: dict[int, int] = {}

    def prepare(self, streams: int, length: int) -> None:
        if self.size != (streams, length):
            if self.context:
                L.llama_free(self.context)
            params = L.llama_context_default_params()
            params.n_ctx = streams * (-(-length // 256) * 256)
            params.n_seq_max, params.n_batch, params.n_ubatch = streams, 2048, CHUNK
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified = True
            params.no_perf = True
            self.context, self.size = L.llama_init_from_model(self.model, params), (streams, length)
            if not self.context:
                raise RuntimeError("no context")
        L.llama_memory_clear(L.llama_get_memory(self.context), True)
        self.slots = list(range(streams))
        self.waiting: list[tuple[int, list[int], int]] = []

    def add(self, id: int, prompt: list[int], new: int) -> None:
        self.waiting.append((id, prompt, new))

    def step(self) -> list[int]:
        while self.waiting and self.slots:
            id, prompt, new = self.waiting.pop(0)
            self.running[id] = [self.slots.pop(), 0, 0, new]
            self.prompts[id] = prompt
        b, rows, last = self.batch, 0, []

        def put(token: int, position: int, slot: int, wanted: bool) -> None:
            nonlocal rows
            b.token[rows], b.pos[rows], b.n_seq_id[rows] = token, position, 1
            b.seq_id[rows][0], b.logits[rows] = slot, wanted
            rows += 1

        for id, state in self.running.items():
            if id in self.next:
                put(self.next[id], state[1], state[0], True)
                state[1] += 1
                last.append((id, rows - 1))
        for id, state in self.running.items():
            prompt = self.prompts[id]
            for _ in range(min(len(prompt) - state[2], CHUNK - rows)):
                state[2] += 1
                put(prompt[state[2] - 1], state[1], state[0], state[2] == len(prompt))
                state[1] += 1
                if state[2] == len(prompt):
                    last.append((id, rows - 1))
        b.n_tokens = rows
        if code := L.llama_decode(self.context, b):
            raise RuntimeError(f"llama_decode gave {code}")
        for id, row in last:
            logits = L.llama_get_logits_ith(self.context, row)
            self.next[id] = int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())
            self.running[id][3] -= 1
            if not self.running[id][3]:
                self._end(id)
        return [id for id, _ in last]

    def _end(self, id: int) -> None:
        slot = self.running.pop(id)[0]
        del self.prompts[id]
        self.next.pop(id, None)
        L.llama_memory_seq_rm(L.llama_get_memory(self.context), slot, -1, -1)
        self.slots.append(slot)

    def stop(self) -> None:
        self.waiting.clear()
        for id in list(self.running):
            self._end(id)


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write `target` by llama.cpp's own quantiser, the head in the same precision as the rest."""
    params = L.llama_model_quantize_default_params()
    ftype = {"q8_0": L.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": L.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    params.nthread, params.ftype, params.pure = 2, ftype, True
    if code := L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize gave {code}")
