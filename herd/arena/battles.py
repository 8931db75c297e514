"""Battles: one prompt, two targets that nobody names before the vote."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from herd.arena.columns import counts_of
from herd.arena.features import language
from herd.arena.pace import End, paced
from herd.arena.voters import Hourly, voter_salt
from herd.errors import HerdError
from herd.evidence.pairing import pair_weights
from herd.evidence.votes import Counts
from herd.gateway.config import LOCAL
from herd.gateway.gateway import Gateway
from herd.gateway.keys import Principal
from herd.gateway.redact import redact
from herd.gateway.reply import Reply
from herd.gateway.route import ArenaSpec
from herd.nearest import nearest
from herd.protocol import Delta, Failed, Finished, Message, ProtocolError, Request, Sampling
from herd.store import Store

SIDES = ("left", "right")
KINDS = ("arena", "pair")
MAX_PROMPT = 32_000  # characters
MAX_STORED = 50  # stored pairs of which one is drawn
WHOLE = ("stop", "length", "content_filter")  # how a reply finishes that can be judged
# What concerns the caller and not a side, in words that tell nothing of a price or a provider.
OWN = {
    "budget_exhausted": (429, "a limit of this key is reached, or too little of it is left for two replies"),
    "rate_limit_exceeded": (429, "a limit of this key is reached; try again later"),
    "invalid_api_key": (401, "this key was revoked"),
}
FAILED = "this side could not answer"
STOPPED = "this reply was stopped before its end"
DELETED = "what was said here was deleted"

Row = dict[str, Any]
_random = secrets.SystemRandom()


@dataclass(frozen=True)
class Caller:
    """Who battles and votes. `voter`: a salted hash of who it is."""

    principal: Principal
    voter: str


class Battles:
    """Begins battles, has them answered, and says what may be seen of them.

    `problem()`: why models of this machine cannot answer, None if they can; `counts()`: the votes so far. Methods raise
    HerdError: 403 "not_your_battle", 404, 409 for what does not fit the battle's state, 410 "expired".
    """

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        *,
        problem: Callable[[], str | None],
        counts: Callable[[], Counts],
    ) -> None:
        self.gateway, self.store = gateway, store
        self._problem, self._counts = problem, counts
        self._running: set[str] = set()
        self._hourly, self._salt = Hourly("battles"), ""

    @property
    def spec(self) -> ArenaSpec:
        return self.gateway.now.config.arena

    async def salt(self) -> str:
        self._salt = self._salt or await asyncio.to_thread(voter_salt, self.store)
        return self._salt

    # --- beginning

    async def begin(self, who: Caller, targets: Sequence[str] | None = None, tags: Sequence[str] = ()) -> Row:
        """A new battle: of these two at the left and the right, or of two that are drawn. Raises HerdError 503 if there
        are no two targets that can answer."""
        if who.principal.keep not in (None, "text"):
            message = 'this key keeps no text, without which there is no battle; a key with keep = "text" can'
            raise HerdError(message, status=409, code="nothing_kept")
        able = await asyncio.to_thread(self._able)
        if targets is None:
            left, right = await asyncio.to_thread(self._draw, list(able))
        else:
            if wrong := next((name for name in targets if name not in able), None):
                near = nearest(wrong[:200], able)
                hint = f"; did you mean {near!r}?" if near else ""
                message = f"{wrong!r:.200} is no target of the arena that can answer{hint}"
                raise ProtocolError(message, "targets")
            left, right = targets
        digests = {"left_digest": able[left], "right_digest": able[right]}
        return await self._put("arena" if targets is None else "pair", left, right, who, tags=tags, **digests)

    async def begin_stored(self, who: Caller) -> Row:
        """One of the newest stored pairs on which this voter has not voted. Raises HerdError 404 "nothing_stored"."""
        found = await asyncio.to_thread(self.store.stored_pairs, MAX_STORED, unvoted_by=who.voter)
        pairs = [pair for pair in found if _asked(pair["a"]) and _asked(pair["a"]) == _asked(pair["b"])]
        if not pairs:
            message = "there is no stored pair on which you have not voted; shadows, battles and replies that were written again make some"
            raise HerdError(message, status=404, code="nothing_stored")
        pair = _random.choice(pairs)
        return await self._shown("stored", pair["a"], pair["b"], who, conversation=pair["conversation"])

    async def begin_embed(self, who: Caller, a: str, b: str, tags: Sequence[str] = ()) -> Row:
        """A battle between two generations of the caller's own, for whoever shows a key of its application."""
        found = []
        for field, id in (("a", a), ("b", b)):
            row = await asyncio.to_thread(self.store.get_generation, id, who.principal.name)
            if row is None or not (who.principal.may("admin") or row["key"] == who.principal.name):
                raise HerdError(f"{field}: no generation {id!r:.100}", status=404, code="not_found")
            if not row["reply"] or row["finish"] not in WHOLE:
                raise ProtocolError(f"{field} has no whole reply whose text is kept", field)
            found.append(row)
        if _asked(found[0]) != _asked(found[1]):
            raise ProtocolError("a and b do not answer the same prompt", "b")
        if _target(found[0]) == _target(found[1]):
            raise ProtocolError("a and b are of the same target", "b")
        about = {"conversation": found[0]["conversation"], "tags": tags, "voter": None}
        return await self._shown("embed", found[0], found[1], who, **about)

    def names(self) -> Sequence[str]:
        """Who may be drawn, able or not."""
        now = self.gateway.now
        return self.spec.targets or tuple(dict.fromkeys((*now.local.names(), *now.config.targets)))

    def _able(self) -> dict[str, str]:
        """The digests of the targets that can answer now, by name; of several names for the same, the first."""
        now, found = self.gateway.now, dict[str, str]()
        health = self.gateway.health()
        resting = {one["provider"] for one in health}
        resting -= {one["provider"] for one in health if one["state"] != "open"}
        if self._problem():
            resting.add(LOCAL)
        for name in self.names():
            try:
                target = now.target(name)
            except HerdError:  # gone or broken
                continue
            keeps = name not in now.routes or now.routes[name].keep == "text"
            if keeps and target.provider not in resting and target.digest not in found.values():
                found[name] = target.digest
        return found

    def _draw(self, names: Sequence[str]) -> tuple[str, str]:
        if len(names) < 2:
            what = f"only {names[0]!r} can" if names else "none can"
            message = f"a battle needs two targets that can answer, and {what} now: name them in [targets] or arena.targets of herd.toml"
            if problem := self._problem():
                message += f"; for models here: {problem}"
            raise HerdError(message, status=503, code="too_few_targets")
        weights = pair_weights(counts_of(self._counts(), names))
        pairs = list(combinations(range(len(names)), 2))
        drawn = _random.choices(pairs, [float(weights[pair]) for pair in pairs])[0]
        left, right = _random.sample(drawn, 2)
        return names[left], names[right]

    async def _shown(self, kind: str, a: Row, b: Row, who: Caller, **values: Any) -> Row:
        """A battle of replies that are there already."""
        left, right = _random.sample((a, b), 2)
        turn = {"prompt": _asked(left), "left": left["id"], "right": right["id"]}
        digests = {"left_digest": left["target_digest"], "right_digest": right["target_digest"]}
        return await self._put(kind, _target(left), _target(right), who, turns=[turn], **digests, **values)

    async def _put(self, kind: str, left: str, right: str, who: Caller, **values: Any) -> Row:
        if kind != "embed":
            self._hourly.take(who.voter, self.spec.battles_per_hour)
        id, now = f"battle_{secrets.token_hex(16)}", time.time()
        own: Row = {
            "id": id, "kind": kind, "left_target": left, "right_target": right, "conversation": id, "turns": [],
            "tags": [], "voter": who.voter, "key": who.principal.name,
            "application": who.principal.application or None, "created": now,
            "expires": now + self.spec.expires_hours * 3600,
        }  # fmt: skip
        try:
            return await self.store.write_battle(own | values)
        except HerdError:
            if kind != "embed":
                self._hourly.give_back(who.voter)
            raise

    # --- seeing

    async def get(self, id: str, who: Caller) -> Row:
        """The battle, if it is the caller's to see."""
        return self.seen(await asyncio.to_thread(self.store.battle, id), id, who)

    def seen(self, row: Row | None, id: str, who: Caller) -> Row:
        """As `get`, of a battle that was read."""
        caller = who.principal
        own = row is not None and (caller.may("admin") or (row["application"] or "") == caller.application)
        if row is None or (row["kind"] == "embed" and not own):
            raise HerdError(f"no battle {id!r:.100}", status=404, code="not_found")
        if row["kind"] != "embed" and row["voter"] != who.voter:
            message = "this battle was begun by somebody else; begin one of your own"
            raise HerdError(message, status=403, code="not_your_battle")
        return row

    def replies(self, row: Row) -> list[dict[str, Any]]:
        """Of each turn what is kept of the reply at each side, None for one that is not there. Reads the store."""
        ids = [turn[side] for turn in row["turns"] for side in SIDES if turn[side]]
        return replies_of(row, self.store.battle_replies(ids) if ids else {})

    def view(self, row: Row, said: Sequence[Row], reveal: Row | None = None) -> Row:
        """All that may be seen of a battle with these `replies`: no name, digest, id of a reply, time or cost, except in
        `reveal`."""
        running = row["id"] in self._running
        turns = []
        for i, (turn, one) in enumerate(zip(row["turns"], said, strict=True), 1):
            sides = {side: _view(one, side, turn, running and i == len(said)) for side in SIDES}
            turns.append({"prompt": turn["prompt"], **sides})
        state = "voted" if row["voted"] else "expired" if row["expires"] <= time.time() else "open"
        return {"id": row["id"], "kind": row["kind"], "state": state, "turns": turns, "created": row["created"],
                "expires": row["expires"], "reveal": reveal}  # fmt: skip

    def redacted(self, row: Row) -> tuple[str, ...]:
        """What is redacted in what is kept of a battle: what either target's route says."""
        routes = (self.gateway.now.routes.get(row[f"{side}_target"]) for side in SIDES)
        return tuple(dict.fromkeys(rule for route in routes if route for rule in route.redact))

    # --- answering

    def say(self, row: Row, who: Caller, prompt: str) -> AsyncGenerator[Row | None, None]:
        """Both sides' answers to one prompt more, as `paced` gives them, then {"type": "done", "turn"}."""
        if not prompt.strip() or len(prompt) > MAX_PROMPT:
            raise ProtocolError(f"prompt must be text of 1 to {MAX_PROMPT:,} characters", "prompt")
        if len(row["turns"]) >= self.spec.max_turns:
            message = f"a battle has at most {self.spec.max_turns} turns; vote, or begin a new one"
            raise HerdError(message, status=409, code="too_many_turns")
        return self._answer(row, who, prompt, len(row["turns"]))

    def again(self, row: Row, who: Caller) -> AsyncGenerator[Row | None, None]:
        """The last turn's answers made anew; the old generations stay."""
        if not row["turns"] or not row["turns"][-1]["prompt"]:
            raise HerdError("there is no prompt to be answered again", status=409, code="no_turn")
        return self._answer(row, who, row["turns"][-1]["prompt"], len(row["turns"]) - 1)

    async def _answer(
        self, row: Row, who: Caller, prompt: str, index: int
    ) -> AsyncGenerator[Row | None, None]:
        if row["kind"] not in KINDS:
            raise HerdError("the replies of this battle are what they are", status=409, code="no_turns")
        check_open(row)
        if row["id"] in self._running:
            raise HerdError("this battle is being answered already", status=409, code="in_progress")
        self._running.add(row["id"])
        running = True
        try:
            said = (await asyncio.to_thread(self.replies, row))[:index]
            turns = row["turns"][:index]
            if any(unready(turn, one) for turn, one in zip(turns, said, strict=True)):
                message = "a reply before this one is not complete; regenerate it first"
                raise HerdError(message, status=409, code="not_ready")
            replies = {side: self._reply(row, side, who, turns, said, prompt) for side in SIDES}
            kept = {"prompt": redact(prompt, self.redacted(row))}
            now = [*turns, kept | {side: reply.id for side, reply in replies.items()}]
            await self.store.write_battle_change(row["id"], {"turns": now}, row["turns"])
            asyncio.get_running_loop().run_in_executor(None, language, prompt)  # loaded when the vote comes
            sources = {side: self._source(reply) for side, reply in replies.items()}
            begun = False
            try:
                async with aclosing(paced(sources)) as events:
                    async for event in events:
                        begun = begun or event is not None
                        yield event
            except HerdError:
                if not begun:  # nobody has said a word: all is as it was
                    with suppress(HerdError):  # what happened is said first
                        await self.store.write_battle_change(row["id"], {"turns": row["turns"]}, now)
                raise
            running = False
            self._running.discard(row["id"])  # whoever hears this may look, or ask again
            yield {"type": "done", "turn": index}
        finally:
            if running:
                self._running.discard(row["id"])

    def _reply(
        self, row: Row, side: str, who: Caller, turns: Sequence[Row], said: Sequence[Row], prompt: str
    ) -> Reply:
        """A reply of a side to the prompt, after what this side has said before."""
        messages = []
        for turn, one in zip(turns, said, strict=True):
            messages += [Message("user", turn["prompt"]), Message("assistant", one[side]["reply"])]
        name = row[f"{side}_target"]
        try:
            own = self.gateway.now.target(name).sampling.get("max_tokens") or self.spec.max_tokens
            request = Request(
                name, "chat", (*messages, Message("user", prompt)), stream=True,
                sampling=Sampling(max_tokens=min(own, self.spec.max_tokens)), explicit=frozenset({"max_tokens"}),
            )  # fmt: skip
            talk = f"{row['id']}-{side}"
            return self.gateway.begin(request, principal=who.principal, conversation=talk, direct=True)
        except HerdError as error:
            if error.code == "stopping":
                raise
            message = "one of the sides cannot answer any more; begin a new battle"
            raise HerdError(message, status=503, code="side_unavailable") from None

    async def _source(self, reply: Reply) -> AsyncGenerator[str | End, None]:
        """A reply's text and its end, without a word of who says it."""
        reason: Literal["stop", "length"] = "stop"
        async with aclosing(self.gateway.events(reply)) as items:
            async for item in items:
                match item:
                    case Delta(text=text) if text:
                        yield text
                    case Finished(reason=found):
                        reason = "stop" if found == "stop" else "length"
                    case Failed(code=code) if code in OWN:
                        status, message = OWN[code]
                        raise HerdError(message, status=status, code=code)
                    case Failed():
                        yield End(failed=HerdError(FAILED, status=502, code="side_failed"))
                        return
        yield End(reason)


def replies_of(row: Row, found: Mapping[str, Row]) -> list[Row]:
    """Of each turn the replies at each side, None for one that is not among those found, by id."""
    return [{side: found.get(turn[side]) for side in SIDES} for turn in row["turns"]]


def check_open(row: Row) -> None:
    """Raises HerdError for a battle that has its vote, or has expired."""
    if row["voted"]:
        raise HerdError("this battle has its vote; begin a new one", status=409, code="voted")
    if row["expires"] <= time.time():
        raise HerdError("this battle has expired; begin a new one", status=410, code="expired")


def unready(turn: Row, said: Mapping[str, Row | None]) -> str | None:
    """Why a turn cannot be judged, if so: nothing can be said of a reply that failed, or was deleted."""
    problems = [_problem_of(one, turn) for one in said.values()]
    return next(filter(None, problems), None)


def _problem_of(row: Row | None, turn: Row) -> str | None:
    if not turn["prompt"]:
        return DELETED
    if row is None or row["finish"] == "cancelled":
        return STOPPED
    return None if row["finish"] in WHOLE else FAILED


def _view(said: Mapping[str, Row | None], side: str, turn: Row, running: bool) -> Row:
    """Of a turn of which not both sides are kept, or that is still being shown, neither side is seen: who is ready first
    says who is faster."""
    if running:
        return {"text": "", "finish": None, "failed": None}
    row = None if None in said.values() else said[side]
    failed = _problem_of(row, turn)
    finish = None if failed else "stop" if row and row["finish"] == "stop" else "length"
    return {"text": row["reply"] if row else "", "finish": finish, "failed": failed}


def _asked(row: Row) -> str:
    """What a stored reply answers, as text: the last question, with what went before it if there was something."""
    said = [m for m in row["request"].get("messages", ()) if m["role"] != "system" and m["content"]]
    if len(said) == 1:
        return str(said[0]["content"])
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in said)


def _target(row: Row) -> str:
    return str(row["target"] or row["route"])
