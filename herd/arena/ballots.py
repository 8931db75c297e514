"""Votes on battles, and what they reveal."""

import asyncio
from collections.abc import Mapping, Sequence

from herd.arena.battles import SIDES, Battles, Caller, Row, check_open, unready
from herd.arena.board import Board
from herd.arena.features import categories, style
from herd.arena.leaks import leak, words_of
from herd.arena.voters import Hourly
from herd.errors import HerdError
from herd.gateway.config import LOCAL
from herd.store import Store
from herd.store.votes import prompt_hash

OUTCOMES = {"left": "a", "right": "b", "tie": "tie", "both_bad": "both_bad"}
REASONS = ("accuracy", "helpfulness", "style", "brevity", "safety", "other")
DOLLAR = 10**12


class Ballots:
    """Takes votes: one a battle, durable when it is acknowledged, void where a reply gave a side away."""

    def __init__(self, battles: Battles, store: Store, board: Board) -> None:
        self.battles, self.store, self.board = battles, store, board
        self._hourly = Hourly("votes")

    async def vote(
        self,
        row: Row,
        who: Caller,
        outcome: str,
        *,
        voter: str,
        reasons: Sequence[str] = (),
        comment: str | None = None,
    ) -> tuple[Row, list[Row]]:
        """The vote as it is kept, and the battle's replies. The same outcome again is the same vote; another one is
        HerdError 409 "voted".

        410 "expired", 409 "not_ready" while a side has no whole reply, 429 over the voter's limit.
        """
        kept, said, about = await asyncio.to_thread(self._look, row, OUTCOMES[outcome])
        if kept:
            return kept, said
        self._hourly.take(voter, self.battles.spec.votes_per_hour)
        vote = {
            "id": f"vote_{row['id']}", "battle": row["id"], "outcome": OUTCOMES[outcome], "voter": voter,
            "source": row["kind"], "key": who.principal.name, "application": row["application"],
            "reasons": list(dict.fromkeys(reasons)) or None, "comment": comment or None, **about,
        }  # fmt: skip
        try:
            return await self.store.write_vote(vote), said
        except HerdError:
            self._hourly.give_back(voter)
            raise

    def _look(self, row: Row, outcome: str) -> tuple[Row | None, list[Row], Row]:
        """The vote that there is already, what was said, and what a new vote is about: all that each side has said."""
        said = self.battles.replies(row)
        if row["voted"]:
            kept = self.store.battle_vote(row["id"])
            if kept is None or kept["outcome"] != outcome:
                check_open(row)
            return kept, said, {}
        check_open(row)
        problem = None if said else "nothing has been said yet"
        for turn, one in zip(row["turns"], said, strict=True):
            problem = problem or unready(turn, one)
        if problem:
            hint = "" if row["kind"] in ("stored", "embed") else "; regenerate it, or begin a new battle"
            raise HerdError(f"{problem}{hint}", status=409, code="not_ready")
        prompts = [turn["prompt"] for turn in row["turns"]]
        texts = {side: [one[side]["reply"] for one in said] for side in SIDES}
        found = self.leak(row, texts)
        turn = row["turns"][-1]
        return None, said, {
            "a": turn["left"], "b": turn["right"],
            "a_target": row["left_target"], "b_target": row["right_target"],
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
        return words_of(*names, identities=self.battles.spec.identities)

    async def reveal(self, row: Row, said: Sequence[Row], vote: Row | None = None) -> Row | None:
        """Who it was, their ratings with and without the battle's vote, and what each reply took; None without a vote."""
        return await asyncio.to_thread(self._reveal, row, said, vote)

    def _reveal(self, row: Row, said: Sequence[Row], vote: Row | None) -> Row | None:
        vote = vote or self.store.battle_vote(row["id"])
        if vote is None:
            return None
        self.board.refresh(within=0.1)  # the board adds this vote by itself
        ratings, shown = self.board.after(vote), {}
        counts = self.board.standing.counts
        games = dict(zip(counts.names, counts.games.sum(1).tolist(), strict=True))
        for side in SIDES:
            name, made = row[f"{side}_target"], said[-1][side]
            about = self.board.about(name)
            shown[side] = {
                "name": name, **ratings[side], "votes": round(games.get(name, 0)),
                "open": about.get("open"), "licence": about.get("licence"),
                "cost": made["cost"] / DOLLAR if made and made["cost"] is not None else None,
                "total_ms": made["total_ms"] if made else None,
            }  # fmt: skip
        outcome = next(name for name, kept in OUTCOMES.items() if kept == vote["outcome"])
        told = {"outcome": outcome, "void": vote["void"], "leak": (vote["details"] or {}).get("leak")}
        return {**shown, **told, "progress": self._progress(row, vote)}

    def _progress(self, row: Row, vote: Row) -> str:
        cast = self.store.votes_of(vote["voter"])
        text = f"you cast {cast} {'vote' if cast == 1 else 'votes'}"
        try:
            found = self.board.decision(row["left_target"], row["right_target"])
        except HerdError:  # of a target that the board, a little behind, has not seen
            return text
        pair = f"{row['left_target']} against {row['right_target']}"
        if found.decision in ("A", "B", "EQUAL"):
            return f"{text}; {pair} is decided"
        more = found.needed
        return f"{text}; about {more} more decide {pair}" if more else text
