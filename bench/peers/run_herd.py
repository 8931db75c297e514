"""Herd's engine in process, as the server's engine process has it, but without HTTP or socket."""

from importlib.metadata import version
from pathlib import Path

import torch

from herd.engine import pace
from herd.engine.loading import open_engine
from herd.protocol.types import Delta, Failed, Request, Sampling


class Engine:
    def __init__(self, folder: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        pace.MAX_DRAFT = 0  # random weights repeat themselves, and no peer speculates here
        self.engine = open_engine(Path(folder) / "hf", weights=precision)
        self.versions = f"herd {version('openherd')}, torch {torch.__version__}"
        self.ids: set[int] = set()

    def prepare(self, streams: int, length: int) -> None: ...

    def add(self, id: int, prompt: list[int], new: int) -> None:
        self.ids.add(id)
        sampling = Sampling(temperature=0, max_tokens=new)
        self.engine.submit(str(id), Request("", "completion", prompt=tuple(prompt), sampling=sampling))

    def step(self) -> list[int]:
        made = []
        for id, event in self.engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
            if isinstance(event, Delta):
                made += [int(id)] * len(event.tokens)
        return made

    def stop(self) -> None:
        for id in self.ids:
            self.engine.cancel(str(id))
        self.ids.clear()
        while not self.engine.idle:
            self.engine.step()
        while self.engine.rest():  # as the engine's process does while nothing is asked
            pass
