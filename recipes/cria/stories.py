"""Cut and re-case the TinyStories files, and turn short stories into chats, for cria.

    python recipes/cria/stories.py SHARED_DATA OUT_DIR

Writes stories.jsonl, story_chats.jsonl and stories_heldout.jsonl (one story in a hundred, by hash).
"""

import io
import json
import re
import sys
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random
from typing import Iterator

import zstandard

PLAIN = [("â€œ", '"'), ("â€™", "'"), ("â€˜", "'"), ("â€¦", "..."), ("â€”", " - "), ("â€“", "-"), ("â€\x9d", '"'),
         ("â€", '"'), ("“", '"'), ("”", '"'), ("’", "'"), ("‘", "'"), ("—", " - "), ("…", "...")]
TOKEN = re.compile(r"\n\n|[A-Za-z]+(?:'[A-Za-z]+)?|[^A-Za-z]")
SPEECH = set("said says asked asks cried shouted replied exclaimed yelled answered whispered called screamed".split())
DET = set("the a an my your his her their our its this that little big new old every each other some no".split())
NAMED = re.compile(r"\b(?:named|name (?:is|was)|[a-z]+ called) ([a-z]{2,})(?:,? and (?:named |called )?([a-z]{2,})\b)?")


def split(text: str) -> Iterator[str]:
    """Single stories. A newline ends a story, but some stories have newlines inside: short pieces are joined."""
    for bad, good in PLAIN:
        text = text.replace(bad, good)
    story: list[str] = []
    for piece in re.split(r"(?<!\n)\n(?!\n)", re.sub(r"\n\s*\n", "\n\n", text)):
        long = len(piece.split()) >= 60 and sum(len(p.split()) for p in story) >= 60
        if story and (long or re.match(r"(?i)\s*once\b", piece)):
            yield "\n\n".join(story)
            story = []
        if piece.strip():
            story.append(re.sub(r"[ \t]+", " ", piece).strip())
    yield "\n\n".join(story)


def whole(story: str) -> bool:
    """Whether a story has a proper beginning and end, paired quotation marks and nothing odd inside."""
    return (re.fullmatch(r"[A-Z\"][A-Za-z0-9\s.,!?'\":;()-]+[.!?\"]", story) is not None
            and 40 <= len(story.split()) <= 700 and all(p.count('"') % 2 == 0 for p in story.split("\n\n"))
            and not re.search(r"[.!?][a-z]|(.{12,})\1", story))


def words(tokens: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Each word's index, the word before it in its clause, and whether it starts a sentence."""
    start, quoted, last = True, False, ""
    for i, token in enumerate(tokens):
        if token[0].isalpha():
            yield i, last, start
            start, last = False, token.lower()
        elif token == "\n\n" or token in ".!?":
            start, last, quoted = True, "", quoted and token != "\n\n"
        elif token == '"':
            quoted = not quoted
            if quoted:
                start, last = True, ""
            elif tokens[i - 1] in "!?":                             # "Stop!" she said.  but  "Stop!" She ran.
                near = [t.lower() for t in tokens[i + 1:i + 12] if not t.isspace() or t == "\n\n"][:5]
                verb = next((k for k, t in enumerate(near) if t in SPEECH), 9)
                start = not (verb < 4 and all(t.isalpha() for t in near[:verb]) and near[verb + 1:verb + 2] != [","])
        elif token in ",;:":
            last = ""


class Caser:
    """Learns from cased text which words have a capital inside a sentence, and after which word before them."""

    def __init__(self, stories: list[str], books: list[str]) -> None:
        self.seen: dict[bool, Counter[tuple[str, ...]]] = {False: Counter(), True: Counter()}
        for story in stories:
            tokens = TOKEN.findall(story)
            for i, last, start in words(tokens):
                word = tokens[i].lower().removesuffix("'s")
                if not start:
                    self.seen[tokens[i][0].isupper()].update([(last, word), (str(last in DET), word), (word,)])
        found = Counter(w for book in books for w in re.findall(r"(?<=[a-z,] )[A-Za-z]+", book))
        self.common = {w for w in found if w.islower()}
        self.names = {w.lower() for w, n in found.items() if w.istitle() and n >= 5 and n > 20 * found[w.lower()]}

    def capital(self, last: str, word: str) -> bool:
        for key in ((last, word), (str(last in DET), word), (word,)):
            if self.seen[True][key] + self.seen[False][key] >= (1 if len(key) == 1 else 3):
                return self.seen[True][key] > self.seen[False][key]
        return word in self.names and last not in DET

    def recase(self, text: str) -> str:
        tokens = TOKEN.findall(text.lower())
        often = Counter(t.removesuffix("'s") for t in tokens)
        names = {n for m in NAMED.finditer(text.lower()) for n in m.groups() if n and self.seen[False][n,] < 20}
        names |= {w for w, n in often.items() if n > 1 and w.isalpha() and len(w) > 2 and w not in self.common
                  and not self.seen[False][w,] and w.removesuffix("s") not in self.common}
        for i, last, start in words(tokens):
            word = tokens[i].removesuffix("'s")
            if (start or word == "i" or word.startswith("i'") or self.capital(last, word)
                    or word in names and last not in DET - {"little", "big", "old"}):
                tokens[i] = {"ok": "OK", "tv": "TV"}.get(word, tokens[i].capitalize())
        return "".join(tokens)


def accuracy(cased: list[str], books: list[str]) -> float:
    """The share of words recased as written: learnt on one half of the cased stories, tested on the other."""
    half = len(cased) // 2
    caser = Caser(cased[:half], books)
    pairs = [(a, b) for s in cased[half:] for a, b in zip(s.split(), caser.recase(s).split(), strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


WANTS = ["Tell me a story about {}.", "Can you tell me a story about {}?", "Please tell me a story about {}.",
         "I want a bedtime story about {}.", "Write a short story about {}.", "Could you tell a story about {}?",
         "I would like to hear a story about {}.", "Tell a little story about {}, please.", "A story about {}, please!",
         "Do you know a story about {}?", "Make up a story about {}.", "Will you read me a story about {}?",
         "Hello! Can I have a story about {}?", "Tell me a nice story about {}.", "It is bedtime. Tell me about {}.",
         "Write me a tale about {}.", "My little sister wants a story about {}.", "Hi cria! A story about {}, please.",
         "Let's have a story about {}.", "Give me a short story about {}.", "Please write a story about {}."]
ANY = ["Tell me a story.", "Can you tell me a story?", "I want a story, please.", "Tell me a bedtime story.",
       "Write a short story.", "Story time!", "Please tell me a nice little story.", "Do you know any stories?"]
WITH = ["Write a short story with {} in it.", "Tell me a story with {}.", "Can you make a story with {} in it?",
        "I want a story that has {} in it.", "Make up a little story with {}, please."]
MORE = ["Another one, please.", "One more story!", "That was nice. Can I have another one?", "More, please!",
        "I liked that. Tell me one more.", "Again! A new one!", "Thank you. Another story, please."]
REST = ["Continue this story: {}", "Finish this story: {}", "What happens next? {}", "Go on with this story: {}",
        "Here is how my story starts. {} How does it go on?", "Please write the rest: {}"]
SYSTEM = ["You are cria, a small and friendly model.", "You tell little stories.", "You are a kind storyteller."]
THINGS = set("dog cat ball tree bird fish car boat box cake flower duck bear bunny frog doll kite truck train hat book"
             " star moon rock river apple cookie butterfly bee horse cow pig mouse lion monkey elephant garden farm"
             " castle princess king queen dragon robot bike balloon drum bell rainbow puddle snowman beach forest owl"
             " turtle snail spider ladybug bus plane swing slide pond bridge key map crayon blanket lamp spoon".split())
HERO = re.compile(r"\b([Aa]n? (?:[a-z]+ ){0,2}[a-z]+) (?:named|called) ([A-Z][a-z]+)\b")
WHO = re.compile(r"(?:there (?:was|lived)|One day,|One \w+ day,) (an? (?:[a-z]+ ){0,2}?[a-z]+)"
                 r"(?=[.,]| who| that| in | on | with | was | went | saw | and )")
PAIR = re.compile(r"^(?:Once upon a time, )?([A-Z][a-z]+ and [A-Z][a-z]+)\b")


def subject(story: str) -> tuple[str, str, str] | None:
    """What a story is about, in words for a request, with the hero's kind and name where the start tells them."""
    start = " ".join(re.split(r"(?<=[.!?]) ", story.replace("\n\n", " "))[:2])
    if m := HERO.search(start):
        return f"{m[1][0].lower()}{m[1][1:]} named {m[2]}", m[1].split()[-1], m[2]
    if m := WHO.search(start):
        return m[1], "", ""
    return (m[1], "", "") if (m := PAIR.match(start)) else None


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]


def chats(stories: list[str], books: list[dict[str, str]], pick: Random) -> Iterator[list[dict[str, str]]]:
    """One chat a story, of kinds drawn at random: by subject, by things in it, in two turns, or a story to go on with."""
    for i, story in enumerate(stories):
        about, roll = subject(story), pick.random()
        ask = pick.choice(WANTS).format(about[0]) if about else ""
        things = [w for w in dict.fromkeys(re.findall(r"[a-z]+", story)) if w in THINGS]
        parts = re.split(r"(?<=[.!?]) (?=[A-Z])", story.split("\n\n")[0])
        if about and about[2] and roll < 0.22:
            name = f"The {about[1]}'s name was {about[2]}."
            yield chat(ask, story, f"What was the {about[1]}'s name?", name)
        elif about and roll < 0.34 and i:
            yield chat(pick.choice(ANY), stories[i - 1], pick.choice(MORE), story)
        elif roll < 0.48 and len(parts) > 2:
            first = " ".join(parts[:2])
            yield chat(pick.choice(REST).format(first), story[len(first):].strip())
        elif roll < 0.66 and len(things) > 1:
            both = [("an " if w[0] in "aeiou" else "a ") + w for w in pick.sample(things[:6], 2)]
            yield chat(pick.choice(WITH).format(" and ".join(both)), story)
        elif roll < 0.72:
            yield chat(pick.choice(ANY), story)
        elif about:
            yield chat(ask, story)
    for book in books:
        yield chat(pick.choice(WANTS).replace(" about {}", ' called "{}"').format(book["title"]), book["text"])


def lines(path: Path) -> Iterator[dict[str, str]]:
    for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8"):
        yield json.loads(line)


def main(shared: Path, out: Path) -> None:
    text = shared / "text"
    books = [book["text"] for book in islice(lines(text / "books_simple.jsonl.zst"), 15)]
    cased = [s for s in split((text / "tinystories.txt").read_text()) if whole(s)]
    packed = (text / "tinystories_lowercase.txt.zst").read_bytes()
    lower = list(split(zstandard.ZstdDecompressor().stream_reader(packed).read().decode()))
    caser = Caser(cased, books)
    source = {s: "tinystories" for s in cased}
    known = {re.sub(r"\W+", " ", s.lower()) for s in cased}
    for story in lower:
        key = re.sub(r"\W+", " ", story.lower())
        story = caser.recase(story)
        if key not in known and whole(story):
            known.add(key)
            source[story] = "tinystories_lowercase, re-cased"
    held = {s for s in source if int(sha256(s.encode()).hexdigest(), 16) % 100 == 99}
    train = [s for s in source if s not in held]
    tales = []
    for book in lines(text / "storybooks.jsonl.zst"):
        for bad, good in PLAIN:
            book["text"] = book["text"].replace(bad, good)
        if whole(book["text"]) and len(book["text"].split()) <= 220 and book["title"].isascii():
            tales.append(book)
    short = [s for s in train if len(s.split()) <= 220]
    Random(0).shuffle(short)
    made = [{"messages": m} for m in chats(short, tales, Random(1))]
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("stories", [{"text": s, "source": source[s]} for s in train]), ("story_chats", made),
                       ("stories_heldout", [{"text": s, "source": source[s]} for s in held])):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        print(f"{name}: {len(rows):,}")
    print(f"from {len(lower):,} pieces; re-casing right for {accuracy(cased, books):.2%} of held-out words")
    print(*Random(2).sample(train[-1000:], 2), *made[:2], sep="\n\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
