"""Do the arena's statistics keep their word? Simulated votes whose truth is known, and pictures of what came out.

    python bench/arena_stats.py [--quick] [--pictures FOLDER]

Everything is asked through the functions that the arena itself uses (herd.evidence). The seeds are fixed, so a run gives the
same table on the same machine. `--quick` does a tenth of the work; its figures are as much coarser. Without `--pictures`
nothing is written.

In all worlds a quarter of the votes are ties. Since a tie counts as half a win for each, the truth that an interval has to
cover is the rating fitted to the expected counts.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from herd.evidence.anomaly import suspects
from herd.evidence.ratings import SCALE, Ratings, points, rate, rate_clustered
from herd.evidence.sequences import better, clustered_mean
from herd.evidence.style import FEATURES, contrasts, rate_styled
from herd.evidence.verdict import verdict
from herd.evidence.votes import Counts, Votes

TIES = 0.25
Array = NDArray[np.float64]
Row = tuple[str, str, str]  # what, how it came out, what was promised
Curves = dict[str, list[tuple[float, float]]]
Result = tuple[list[Row], Curves]


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def drawn(rng: np.random.Generator, chance: Array) -> NDArray[np.int64]:
    """An outcome for each chance that what stands left is preferred."""
    winner = np.where(rng.random(chance.shape) < chance, 0, 1)
    return np.where(rng.random(chance.shape) < TIES, 2, winner)


# Coverage -----------------------------------------------------------------------------------------------------------

TRUE = np.array([-150.0, -60.0, -20.0, 0.0, 70.0, 160.0])
NAMES = [f"t{i}" for i in range(len(TRUE))]
TASTE = 120.0  # rating points (one standard deviation) by which voters differ about a target


def pairs() -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """i, j and how often each pair comes up: unevenly."""
    i, j = np.triu_indices(len(TRUE), 1)
    often = 1.0 + (i + 2 * j) % 5
    return i, j, often / often.sum()


def counted(first: Array, second: Array, tie: Array) -> Counts:
    """Of each of `pairs`: votes for i, for j, and neither."""
    i, j, _ = pairs()
    wins, ties = np.zeros((2, len(TRUE), len(TRUE)))
    wins[i, j], wins[j, i] = first, second
    ties[i, j] = ties[j, i] = tie
    return Counts(tuple(NAMES), wins, ties, 0 * ties)


def shares(chance: Array) -> Array:
    """Of all votes, those that each of `pairs` gives its first, its second and neither; chance: that i beats j."""
    often = pairs()[2]
    return often * np.stack([(1 - TIES) * chance, (1 - TIES) * (1 - chance), np.full(len(often), TIES)])


def covered(ratings: Ratings, truth: Array) -> tuple[float, float, bool]:
    """The shares of ratings and of differences whose intervals hold the truth; whether all rank bounds do."""
    i, j, _ = pairs()
    own = np.mean((ratings.low <= truth) & (truth <= ratings.high))
    found = [ratings.difference(a, b) for a, b in zip(i, j, strict=True)]
    both = np.mean([d.low <= truth[a] - truth[b] <= d.high for d, a, b in zip(found, i, j, strict=True)])
    rank = 1 + (truth[:, None] < truth).sum(1)
    return float(own), float(both), bool(((ratings.best <= rank) & (rank <= ratings.worst)).all())


def shares_covered(what: str, seen: list[tuple[float, float, bool]]) -> list[Row]:
    words = (what, "differences covered", "all rank bounds right at once")
    promised = ("93–97 %", "93–97 %", "≥ 95 %")
    return [(w, percent(x), p) for w, x, p in zip(words, np.mean(seen, 0), promised, strict=True)]


def coverage(size: float) -> Result:
    rng, runs = np.random.default_rng(1), int(2000 * size)
    i, j, _ = pairs()
    all_ = shares(expit((TRUE[i] - TRUE[j]) / SCALE))
    truth = rate(counted(*all_)).rating
    drawn_counts = (rng.multinomial(1200, all_.T.ravel()).reshape(-1, 3).T for _ in range(runs))
    seen = [covered(rate(counted(*drawn)), truth) for drawn in drawn_counts]
    return shares_covered("ratings covered, 1,200 independent votes", seen), {}


def by_voters(rng: np.random.Generator, voters: int, each: int) -> Votes:
    i, j, often = pairs()
    which = rng.choice(len(i), voters * each, p=often)
    voter = np.repeat(np.arange(voters), each)
    taste = TRUE + rng.normal(0, TASTE, (voters, len(TRUE)))
    chance = expit((taste[voter, i[which]] - taste[voter, j[which]]) / SCALE)
    return Votes.of(NAMES, i[which], j[which], drawn(rng, chance), voter=voter)


def coverage_by_voters(size: float) -> Result:
    rng, runs = np.random.default_rng(2), int(1000 * size)
    i, j, _ = pairs()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    gap = (TRUE[i] - TRUE[j])[:, None] + math.sqrt(2) * TASTE * nodes
    truth = rate(counted(*shares(expit(gap / SCALE) @ weights / weights.sum()))).rating
    seen, plain = [], []
    for _ in range(runs):
        votes = by_voters(rng, 80, 30)
        seen.append(covered(rate_clustered(votes, by="voter"), truth))
        plain.append(covered(rate(votes.counts()), truth))
    rows = shares_covered("ratings covered, 80 voters of different taste, by voter", seen)
    return [*rows, ("(differences, taken as independent)", percent(np.mean(plain, 0)[1]), "–")], {}


def bootstrap(size: float) -> Result:
    """The sandwich's errors of differences beside those of resampled votes, and of resampled voters."""
    rng, runs = np.random.default_rng(3), max(200, int(1500 * size))
    votes = by_voters(rng, 100, 40)
    i, j, _ = pairs()
    rows = []
    for name, ratings, group in (
        ("votes", rate(votes.counts()), np.arange(len(votes))),
        ("voters", rate_clustered(votes, by="voter"), votes.voter),
    ):
        found, count = [], int(group.max()) + 1
        for _ in range(runs):
            weight = np.bincount(rng.integers(0, count, count), minlength=count)[group]
            found.append(points(replace(votes, weight=weight * 1.0).counts(), ratings.rating))
        resampled = np.array(found)
        errors = (resampled[:, i] - resampled[:, j]).std(0, ddof=1)
        c = ratings.covariance
        ratio = np.sqrt(c[i, i] + c[j, j] - 2 * c[i, j]) / errors
        text = f"{ratio.mean():.3f} ({ratio.min():.3f} to {ratio.max():.3f})"
        rows.append((f"sandwich over bootstrap, {name} resampled {runs} times", text, "1"))
    return rows, {}


# Deciding -----------------------------------------------------------------------------------------------------------

DAYS, A_DAY = 100, 20


def equals(rng: np.random.Generator, world: str) -> Votes:
    """DAYS · A_DAY votes on two targets that are equally good."""
    n = DAYS * A_DAY
    side = rng.integers(0, 2, n)
    voter, conversation = np.arange(n), np.arange(n)
    lead = np.zeros(n)
    if world == "60 voters of their own taste":
        voter = rng.integers(0, 60, n)
        lead = rng.normal(0, 1, 60)[voter]
    if world == "4 votes a conversation":
        conversation = np.arange(n) // 4
        lead = rng.normal(0, 1, n)[conversation]
    outcome = drawn(rng, expit(np.where(side == 0, lead, -lead)))
    return Votes.of(["x", "y"], side, 1 - side, outcome, voter=voter, conversation=conversation)


def peeking(world: str, size: float, seed: int) -> Result:
    rng, runs = np.random.default_rng(seed), int(600 * size)
    days = np.arange(A_DAY, DAYS * A_DAY + 1, A_DAY)
    found: dict[str, list[float]] = {"fixed": [], "sequence": []}

    def fixed(votes: Votes, n: int) -> bool:
        lead = np.array([0.5, -0.5, 0.0])[votes.outcome[:n]] * np.where(votes.a[:n] == 0, 1, -1)
        mean = clustered_mean(lead, votes.conversation[:n], votes.voter[:n])
        return abs(mean.value) > 1.96 * mean.error

    for _ in range(runs):
        votes = equals(rng, world)
        found["fixed"].append(next((n for n in days if fixed(votes, n)), math.inf))
        decided = (n for n in days if better(votes.where(np.arange(n)), 0, 1).decision in ("A", "B"))
        found["sequence"].append(next(decided, math.inf))
    curves = {
        f"{name}, {world}": [(float(n), float(np.mean(np.array(at) <= n))) for n in days]
        for name, at in found.items()
    }
    fixed_, sequence = (percent(curves[f"{name}, {world}"][-1][1]) for name in found)
    what = f"false winners, looked at daily for {DAYS} days: {world}"
    return [(what, f"{sequence}; fixed interval {fixed_}", "≤ 5 %")], curves


def false_switches(size: float) -> Result:
    """A candidate no better, asked for after every conversation from the seventh on; tails and skew."""
    rng, runs = np.random.default_rng(8), int(600 * size)
    shapes: dict[str, Callable[[int], Array]] = {
        "normal": lambda n: rng.normal(size=n),
        "heavy tails (t, 3 degrees)": lambda n: rng.standard_t(3, n),
        "skewed (1 - exponential)": lambda n: 1 - rng.exponential(size=n),
        "more skewed (lognormal)": lambda n: math.exp(0.5) - rng.lognormal(size=n),
    }
    rows = []
    for name, make in shapes.items():
        switched = 0
        for _ in range(runs):
            d = make(100)
            switched += any(verdict(d[:n], range(n)).decision == "SWITCH" for n in range(7, 101))
        what = f"false SWITCH, asked after each of 7 to 100 conversations: {name}"
        rows.append((what, percent(switched / runs), "≤ 5 %"))
    return rows, {}


def to_decide(gap: int, size: float) -> Result:
    """Votes until a difference of `gap` points is decided, looked at after every 10 votes, later after every 2 %."""
    rng, runs = np.random.default_rng(100 + gap), int(300 * size)
    chance, most = float(expit(gap / SCALE)), 40_000
    stops, wrong = [], 0
    for _ in range(runs):
        side = rng.integers(0, 2, most)
        outcome = drawn(rng, np.where(side == 0, chance, 1 - chance))
        votes = Votes.of(["x", "y"], side, 1 - side, outcome)
        n, decision = 10, "NOT ENOUGH DATA"
        while decision == "NOT ENOUGH DATA" and n <= most:
            n = max(n + 10, int(1.02 * n))
            decision = better(votes.where(np.arange(n)), 0, 1).decision
        stops.append(n)
        wrong += decision == "B"
    low, middle, high = np.quantile(stops, [0.1, 0.5, 0.9])
    lead = (1 - TIES) * (chance - 0.5)
    once = ((1.96 + 0.84) ** 2) * ((1 - TIES) / 4 - lead**2) / lead**2
    text = f"{middle:,.0f} (80 %: {low:,.0f} to {high:,.0f}); wrong {percent(wrong / runs)}"
    at = np.sort(stops)
    curve = [(float(x), (r + 1) / runs) for r, x in enumerate(at)]
    promised = f"one look, power 80 %: {once:,.0f}"
    return [(f"votes to decide {gap} points", text, promised)], {f"{gap} points apart": curve}


# Style --------------------------------------------------------------------------------------------------------------

BETA = np.array([0.8, 0.3, -0.2, 0.4])  # log odds for a contrast of 1
LEFT = 0.15


def style(size: float) -> Result:
    """No ties here, so that the model that made the votes is the one that is fitted. Better targets also write longer."""
    rng, runs = np.random.default_rng(9), int(400 * size)
    rating = TRUE - TRUE.mean()
    errors, inside, styled, plain = [], [], [], []
    for _ in range(runs):
        a = rng.integers(0, len(TRUE), 3000)
        b = (a + rng.integers(1, len(TRUE), 3000)) % len(TRUE)
        who = np.stack([a, b], 1)
        length = rng.lognormal(5 + 0.002 * rating[who], 0.6)
        rest = rng.poisson(length[..., None] / [150.0, 40.0, 60.0])
        features = np.concatenate([length[..., None], rest], 2)
        x = contrasts(features)
        odds = (rating[a] - rating[b]) / SCALE + x @ BETA + LEFT
        votes = Votes.of(NAMES, a, b, np.where(rng.random(3000) < expit(odds), 0, 1))
        found = rate_styled(votes, features)
        truth = np.append(BETA * x.std(0), LEFT)
        errors.append([c.estimate - t for c, t in zip(found.coefficients, truth, strict=True)])
        inside.append([c.low <= t <= c.high for c, t in zip(found.coefficients, truth, strict=True)])
        styled.append(found.ratings.rating - 1000 - rating)
        plain.append(rate(votes.counts()).rating - 1000 - rating)
    rows: list[Row] = []
    for name, error, held in zip((*FEATURES, "left"), np.transpose(errors), np.mean(inside, 0), strict=True):
        bias = f"bias {error.mean():+.4f} ± {1.96 * error.std() / math.sqrt(runs):.4f}"
        rows.append((f"style coefficient, {name}", f"{bias}; covered {percent(held)}", "0; 93–97 %"))
    worst = np.abs(np.mean(styled, 0)).max(), np.abs(np.mean(plain, 0)).max()
    text = f"{worst[0]:.1f} points; without style {worst[1]:.1f}"
    return [*rows, ("largest bias of a rating at equal style", text, "0")], {}


# Voters -------------------------------------------------------------------------------------------------------------

BEHAVIOURS = ("always left", "always tie", "four buttons at random", "for one target", "against the others")
EACH = (20, 50, 100, 200)


def crowd(
    rng: np.random.Generator, each: int, differ: bool, odd: str | None = None
) -> tuple[Votes, set[int]]:
    """100 voters on 8 targets; five of them behave as `odd`. differ: tastes (100 points), a liking for the left place
    (50 points) and the rate of ties (Beta, standard deviation 18 %) are each voter's own."""
    k, n = 8, 100 * each
    rating = np.linspace(-200, 200, k)
    voter = np.repeat(np.arange(100), each)
    a = rng.integers(0, k, n)
    b = (a + rng.integers(1, k, n)) % k
    taste, left, ties = np.zeros((100, k)), np.zeros(100), np.full(100, TIES)
    if differ:
        taste, left, ties = rng.normal(0, 100, (100, k)), rng.normal(0, 50, 100), rng.beta(1.25, 3.75, 100)
    chance = expit((rating[a] - rating[b] + taste[voter, a] - taste[voter, b] + left[voter]) / SCALE)
    outcome = np.where(rng.random(n) < chance, 0, 1)
    outcome = np.where(rng.random(n) < ties[voter], rng.choice([2, 2, 2, 3], n), outcome)
    m = voter < 5
    if odd == "always left":
        outcome[m] = 0
    elif odd == "always tie":
        outcome[m] = 2
    elif odd == "four buttons at random":
        outcome[m] = rng.integers(0, 4, m.sum())
    elif odd == "for one target":
        outcome[m & (a == 3)], outcome[m & (b == 3)] = 0, 1
    elif odd == "against the others":
        outcome[m & (outcome < 2)] ^= 1
    names = [f"t{i}" for i in range(k)]
    return Votes.of(names, a, b, outcome, voter=voter), set(range(5)) if odd else set()


def anomalies(size: float) -> Result:
    rng, rows, curves = np.random.default_rng(10), [], {}
    runs = int(100 * size)
    for differ, words in ((False, "voters who all vote alike"), (True, "voters who differ")):
        flagged = anyone = 0
        for each in EACH:
            for _ in range(runs):
                found = suspects(crowd(rng, each, differ)[0])
                flagged, anyone = flagged + len(found), anyone + bool(found)
        total = runs * len(EACH)
        text = f"{percent(flagged / total / 100, 3)} of voters, anybody in {percent(anyone / total)} of the arenas"
        rows.append((f"wrongly flagged: {words}", text, "anybody ≤ 1 %"))
    runs = max(5, int(40 * size))
    for odd in BEHAVIOURS:
        curve = []
        for each in EACH:
            hits = 0
            for _ in range(runs):
                votes, who = crowd(rng, each, True, odd)
                hits += len(who & suspects(votes).keys())
            curve.append((float(each), hits / (5 * runs)))
        curves[odd] = curve
        text = ", ".join(percent(y, 0) for _, y in curve)
        rows.append(
            (f"found with {', '.join(map(str, EACH))} votes, among voters who differ: {odd}", text, "–")
        )
    return rows, curves


WORLDS = ("independent votes", "60 voters of their own taste", "4 votes a conversation")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the pictures there")
    options = parser.parse_args()
    size, began = 0.1 if options.quick else 1.0, time.time()
    tasks: dict[str, tuple[object, ...]] = {
        f"peeking {world}": (peeking, world, size, 4 + i) for i, world in enumerate(WORLDS)
    }
    tasks |= {f"decide {gap}": (to_decide, gap, size) for gap in (20, 50, 90)}
    for part in (coverage, coverage_by_voters, bootstrap, false_switches, style, anomalies):
        tasks[part.__name__] = (part, size)
    with ProcessPoolExecutor(2) as pool:
        running = {name: pool.submit(*task) for name, task in tasks.items()}
        results = {name: future.result() for name, future in running.items()}
    print("| | found | promised |\n|---|---|---|")
    first = ("coverage", "coverage_by_voters", "bootstrap")
    for name in (*first, *(name for name in results if name not in first)):
        for row in results[name][0]:
            print(f"| {' | '.join(row)} |")
    print(f"\n{time.time() - began:.0f} s", file=sys.stderr)
    if options.pictures:
        from arena_pictures import draw

        draw(options.pictures, {name: curves for name, (_, curves) in results.items()})


if __name__ == "__main__":
    main()
