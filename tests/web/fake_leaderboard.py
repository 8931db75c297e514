"""The leaderboard's part of the fake server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROUTES: dict[tuple[str, str], Callable[..., Any]] = {}
STREAMS: dict[tuple[str, str], Callable[..., Any]] = {}
