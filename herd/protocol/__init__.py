"""The canonical request and events, and one codec for each dialect."""

from herd.protocol.types import (
    Called,
    Delta,
    Dialect,
    Effort,
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    Format,
    Image,
    Message,
    ProtocolError,
    Reasoned,
    Request,
    Role,
    Sampling,
    Started,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
    event_from_json,
)

__all__ = [
    "Called", "Delta", "Dialect", "Effort", "Embedded", "Event", "Failed", "FinishReason", "Finished",
    "Format", "Image", "Message", "ProtocolError", "Reasoned", "Request", "Role", "Sampling", "Started",
    "TokenLogprob", "Tool", "ToolCall", "Usage", "event_from_json",
]  # fmt: skip
