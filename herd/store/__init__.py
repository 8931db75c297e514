"""What Herd keeps in its database: conversations, generations, votes, and what it is to be called by."""

from herd.store.background import Background
from herd.store.battles import Battles
from herd.store.conversations import Conversations
from herd.store.feedback import Feedback
from herd.store.generations import Generations, Keep
from herd.store.routes import Routes
from herd.store.traffic import Traffic
from herd.store.votes import OUTCOMES, Votes

__all__ = ["OUTCOMES", "Keep", "Store"]


class Store(Background, Conversations, Battles, Generations, Feedback, Routes, Traffic, Votes):
    """Everything that Herd keeps: see its parts. Methods that add return when what they added is durable."""
