"""Secrets: read from the environment or a file, told to one provider, and kept out of all that it says."""

import os
import stat
from collections.abc import Mapping
from typing import Any

from herd.errors import HerdError
from herd.gateway.provider import UpstreamError

KINDS = ("env:", "file:")
MAX_SECRET = 8192  # bytes
MIN_SECRET = 8  # characters: what is shorter ("EMPTY", "ollama") is none, and hiding it would spoil replies


def secret(reference: str, environ: Mapping[str, str]) -> str:
    """What "env:NAME" or "file:/path" refers to, now. Raises HerdError, which never repeats it."""
    kind, _, name = reference.partition(":")
    if not name or kind not in ("env", "file"):
        raise HerdError('a secret must be written as "env:NAME" or "file:/path"', code="bad_provider")
    value = (environ.get(name, "") if kind == "env" else _read(name)).strip()
    if not value:
        raise HerdError(f"{reference} is not set, or is empty", code="bad_provider")
    if len(value) > MAX_SECRET or not value.isascii() or not value.isprintable():
        raise HerdError(f"{reference} must be one line of printable ASCII characters", code="bad_provider")
    return value


def _read(path: str) -> str:
    try:
        # A pipe's other end is not waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(file).st_mode
            if not stat.S_ISREG(mode) or mode & stat.S_IWOTH:
                raise HerdError(f"{path} must be a file that not everybody may write", code="bad_provider")
            return os.read(file, MAX_SECRET + 3).decode("latin-1")
        finally:
            os.close(file)
    except OSError as error:
        raise HerdError(f"cannot read {path}: {error.strerror}", code="bad_provider") from None


class Secrets:
    """One provider's secrets, and its errors, which hold none of them."""

    def __init__(self, provider: str, environ: Mapping[str, str]) -> None:
        self._provider, self._environ = provider, environ
        self._hidden: dict[bytes, bytes] = {}  # secrets, and what stands in their place

    def get(self, reference: str) -> str:
        """Raises HerdError as `secret`."""
        value = secret(reference, self._environ)
        if len(value) >= MIN_SECRET:
            self._hidden[value.encode()] = b"*" * len(value)
        return value

    def clean(self, data: bytes) -> bytes:
        """`data` without secrets, and as long."""
        for found, stars in self._hidden.items():
            if found in data:
                data = data.replace(found, stars)
        return data

    def error(self, said: str, code: str = "upstream_error", status: int = 502, **more: Any) -> UpstreamError:
        said, code = (self.clean(text.encode("utf-8", "replace")).decode() for text in (said, code))
        return UpstreamError(f"provider {self._provider!r}: {said}", status=status, code=code, **more)

    def told(self, told: Mapping[str, Any], status: int | None = None) -> UpstreamError:
        """Of what the codecs make of an error that the provider tells."""
        more = {"retryable": told["retryable"] or told["elsewhere"], "retry_after": told["retry_after"]}
        return self.error(told["message"], told["code"], told["status"], **more, upstream=status)
