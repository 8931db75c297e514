"""What Herd keeps in its database: conversations, generations, votes."""

from herd.store.store import Store

__all__ = ["Store"]
