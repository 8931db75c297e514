"""The configuration's file, read again when it changes."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from herd.errors import HerdError
from herd.gateway.config import ConfigError, at_line, load
from herd.gateway.gateway import Gateway

log = logging.getLogger("herd.gateway")


class Reloader:
    """Applies what the file says to a gateway. What is wrong with it is said in `problem`; then the running
    configuration goes on."""

    def __init__(self, gateway: Gateway, path: Path, env: Mapping[str, str]) -> None:
        self.gateway, self.path, self.env = gateway, path, env
        self.problem: str | None = None
        self._seen = self._stamp()
        self._one = asyncio.Lock()

    async def poll(self) -> None:
        """Reload if the file is another one than it was."""
        if self._stamp() != self._seen:
            await self.reload()

    async def reload(self) -> None:
        """Read and apply the file now."""
        async with self._one:
            self._seen = self._stamp()
            try:
                names = self.gateway.now.local.names()
                await self.gateway.apply(await asyncio.to_thread(load, self.path, self.env, names))
            except HerdError as error:
                located = at_line(self.path, error) if isinstance(error, ConfigError) else error
                self.problem = str(located)
                log.error("the configuration stays as it was: %s", located)
            else:
                self.problem = None
                log.warning("the configuration is %s", self.path)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
