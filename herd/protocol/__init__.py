"""The canonical request and events, and one codec for each dialect."""

from herd.protocol.types import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Message,
    ProtocolError,
    Request,
    Role,
    Sampling,
    Started,
    TokenLogprob,
    Usage,
    event_from_json,
)

__all__ = [
    "Delta",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "Message",
    "ProtocolError",
    "Request",
    "Role",
    "Sampling",
    "Started",
    "TokenLogprob",
    "Usage",
    "event_from_json",
]
