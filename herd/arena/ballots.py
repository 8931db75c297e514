"""Votes on battles, and what they reveal."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache

from herd.arena.battles import SIDES, Battles, Caller, Row, check_open, replies_of, unready
from herd.arena.board import RECENT, Board
from herd.arena.features import categories, style
from herd.arena.leaks import leak, words_of
from herd.arena.voters import Hourly
from herd.errors import HerdError
from herd.evidence.sequences import rounded
from herd.gateway.config import LOCAL
from herd.gateway.redact import redact
from herd.store import Store
from herd.store.battles import Ballot
from herd.store.votes import prompt_hash

OUTCOMES = {"left": "a", "right": "b", "tie": "tie", "both_bad": "both_bad"}
REASONS = ("accuracy", "helpfulness", "style", "brevity", "safety", "other")
DOLLAR = 10**12

_words_of = lru_cache(maxsize=256)(words_of)


class Ballots:
    """Takes votes: one a battle, durable when it is acknowledged, void where a reply gave a side away."""

    def __init__(self, battles: Battles, store: Store, board: Board) -> None:
        self.battles, self.store, self.board = battles, store, board
        self.hourly = Hourly("votes")

    async def vote(
        self,
        id: str,
        who: Caller,
        outcome: str,
        *,
        user: str,
        reasons: Sequence[str] = (),
        comment: str | None = None,
    ) -> Ballot:
        """One vote on a battle, `user`'s where an application asks for it. The same outcome again is the same vote;
        another one is HerdError 409 "voted".

        As `Battles.get` for one that is not the caller's; 410 "expired", 409 "not_ready" while a side has no whole reply,
        429 over the voter's limit.
        """
        counted: list[str] = []

        def fill(row: Row | None, found: Mapping[str, Row], kept: Row | None) -> Row:
            row = self.battles.seen(row, id, who)
            if kept is not None and kept["outcome"] == OUTCOMES[outcome]:
                return kept
            check_open(row)
            about = self._about(row, replies_of(row, found))
            voter = user if row["kind"] == "embed" else who.voter
            if not counted:
                self.hourly.take(voter, self.battles.spec.votes_per_hour)
                counted.append(voter)
            return {
                "id": f"vote_{id}", "battle": id, "outcome": OUTCOMES[outcome], "voter": voter,
                "source": row["kind"], "key": who.principal.name, "application": row["application"],
                "reasons": list(reasons) or None, **about,
                "comment": redact(comment, self.battles.redacted(row)) if comment else None,
            }  # fmt: skip

        try:
            return await self.store.write_ballot(id, fill)
        except HerdError:
            for voter in counted:
                self.hourly.give_back(voter)
            raise

    def _about(self, row: Row, said: Sequence[Row]) -> Row:
        """What a new vote is about: all that each side has said."""
        if not said:
            raise HerdError("nothing has been said yet; send a prompt first", status=409, code="not_ready")
        problem = None
        for turn, one in zip(row["turns"], said, strict=True):
            problem = problem or unready(turn, one)
        if problem:
            hint = "" if row["kind"] in ("stored", "embed") else "; regenerate it, or begin a new battle"
            raise HerdError(f"{problem}{hint}", status=409, code="not_ready")
        prompts = [turn["prompt"] for turn in row["turns"]]
        texts = {side: [one[side]["reply"] for one in said] for side in SIDES}
        found = self.leak(row, texts)
        a, b = (said[-1][side] for side in SIDES)
        return {
            "a": a["id"], "b": b["id"], "a_target": row["left_target"], "b_target": row["right_target"],
            "a_digest": a["target_digest"], "b_digest": b["target_digest"],
            "conversation": row["conversation"], "prompt": prompt_hash(prompts[0]), "turns": len(prompts),
            "tags": categories(prompts, row["tags"] or ()),
            "style": [*style("\n\n".join(texts["left"])), *style("\n\n".join(texts["right"]))],
            "void": "leak" if found else None, "details": {"leak": found} if found else None,
        }  # fmt: skip

    def leak(self, row: Row, texts: Mapping[str, Sequence[str]]) -> str | None:
        """What gives a side away. Of a chosen pair the names are known: there is nothing to give away."""
        if row["kind"] == "pair":
            return None
        words = {side: self._words(row[f"{side}_target"]) for side in SIDES}
        for side, other in (SIDES, SIDES[::-1]):
            if found := leak(texts[side], words[side], words[other]):
                return found
        return None

    def _words(self, name: str) -> list[str]:
        """What gives a target away: its own name, its model's, and its provider's."""
        names = [name]
        try:
            target = self.battles.gateway.now.target(name)
            names += [target.model, *[target.provider] * (target.provider != LOCAL)]
        except HerdError:  # it is gone
            pass
        return _words_of(*names, identities=self.battles.spec.identities)

    async def reveal(self, row: Row, said: Sequence[Row], vote: Row, cast: int) -> Row:
        """Who it was, their ratings with and without the battle's vote, and what each reply took."""
        if self.board.at_hand(row["left_target"], row["right_target"]):
            return self._reveal(row, said, vote, cast)
        return await asyncio.to_thread(self._reveal, row, said, vote, cast)

    def _reveal(self, row: Row, said: Sequence[Row], vote: Row, cast: int) -> Row:
        self.board.refresh(within=RECENT)  # the board adds this vote by itself
        ratings, shown = self.board.after(vote), {}
        for side in SIDES:
            name, made = row[f"{side}_target"], said[-1][side]
            about = self.board.about(name)
            shown[side] = {
                "name": name, **ratings[side], "votes": self.board.standing.games(name),
                "open": about.get("open"), "licence": about.get("licence"),
                "cost": made["cost"] / DOLLAR if made and made["cost"] is not None else None,
                "total_ms": made["total_ms"] if made else None,
            }  # fmt: skip
        outcome = next(name for name, kept in OUTCOMES.items() if kept == vote["outcome"])
        told = {"outcome": outcome, "void": vote["void"], "leak": (vote["details"] or {}).get("leak")}
        return {**shown, **told, "progress": self._progress(row, cast)}

    def _progress(self, row: Row, cast: int) -> str:
        text = f"you cast {cast} {'vote' if cast == 1 else 'votes'}"
        try:
            found = self.board.decision(row["left_target"], row["right_target"])
        except HerdError:  # of a target that the board, a little behind, has not seen
            return text
        pair = f"{row['left_target']} against {row['right_target']}"
        if found.decision in ("A", "B", "EQUAL"):
            return f"{text}; {pair} is decided"
        more = found.needed
        return f"{text}; about {rounded(more)} more decide {pair}" if more else text
