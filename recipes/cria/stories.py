"""Cut and re-case the TinyStories files, and turn short stories into chats, for cria.

    python recipes/cria/stories.py SHARED_DATA OUT_DIR

Writes stories.jsonl, story_chats.jsonl and stories_heldout.jsonl (one story in a hundred, by hash).
"""

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random

import pyarrow

PLAIN = [
    ("â€œ", '"'),
    ("â€™", "'"),
    ("â€˜", "'"),
    ("â€¦", "..."),
    ("â€”", " - "),
    ("â€“", "-"),
    ("â€", '"'),
    ("“", '"'),
    ("”", '"'),
    ("’", "'"),
    ("‘", "'"),
    ("—", " - "),
    ("…", "..."),
]
TOKEN = re.compile(r"\n\n|[A-Za-z]+(?:'[A-Za-z]+)?|[^A-Za-z]")
MIDDLE = re.compile(r"(?i)\s*(so|but|then|they|he|she|and|suddenly|after|finally|the \w+ (said|asked))\b|\"")
BEGIN = re.compile(
    r"(Once|One|There|It was|An?|Today|Two|Mum|Mom|[A-Z]\w+ (and [A-Z]\w+ )?"
    r"(was|were|is|are|had|has|liked?|loved?|lived|wanted))\b"
)
GRIM = re.compile(r"\b(kill\w*|dead|die[ds]?|dying|blood\w*|guns?|hurt you|skull|devil|pills?|poison\w*)\b")
SPEECH = set("said says asked asks cried shouted replied exclaimed yelled answered whispered called".split())
DET = set("the a an my your his her their our its this little big new old every each other some no".split())
NAMED = re.compile(
    r"\b(?:named|name (?:is|was)|[a-z]+ called) ([a-z]{2,})"
    r"(?:,? and (?:named |called )?([a-z]{2,})\b)?"
)
NOT_A_NAME = re.compile(r"\w\w?$|.*'|.*(ed|ing|ly|ble|tion|est|ive|ous|ment)$")


def split(text: str) -> Iterator[str]:
    """Single stories. A newline ends a story, but some have newlines inside: short pieces are joined."""
    for bad, good in PLAIN:
        text = text.replace(bad, good)
    story: list[str] = []
    for piece in re.split(r"(?<!\n)\n(?!\n)", re.sub(r"\n\s*\n", "\n\n", text)):
        long = len(piece.split()) >= 60 and sum(len(p.split()) for p in story) >= 60
        if story and (long and not MIDDLE.match(piece) or re.match(r"(?i)once\b", piece.strip())):
            yield "\n\n".join(story)
            story = []
        if piece.strip():
            story.append(re.sub(r"[ \t]*(\n\n|[ \t])[ \t]*", r"\1", piece).strip())
    yield "\n\n".join(story)


def whole(story: str) -> bool:
    """Whether a story starts and ends with a sentence, pairs its quotation marks and holds nothing odd."""
    return (
        re.fullmatch(r"[A-Z\"][A-Za-z0-9\s.,!?'\":;()-]+([.!]|[.!,]\")", story) is not None
        and 40 <= len(story.split()) <= 700
        and all(p.count('"') % 2 == 0 for p in story.split("\n\n"))
        and not re.search(r"[.!?][a-z]|(.{12,})\1", story)
    )


def words(tokens: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Each word's index, the word before it in its clause, and whether it starts a sentence."""
    start, quoted, last = True, False, ""
    for i, token in enumerate(tokens):
        if token[0].isalpha():
            yield i, last, start
            start, last = False, token.lower()
        elif token == "\n\n" or token in ".!?":
            start, last, quoted = True, "", quoted and token != "\n\n"
        elif token == "'" and tokens[i - 1] == " ":
            start = True
        elif token == '"':
            quoted = not quoted
            if quoted:
                start, last = True, ""
            elif tokens[i - 1] in "!?":  # "Stop!" she said.  but  "Stop!" She ran.
                near = [t.lower() for t in tokens[i + 1 : i + 12] if not t.isspace() or t == "\n\n"][:5]
                verb = next((k for k, t in enumerate(near[:4]) if t in SPEECH), -1)
                start = (
                    verb < 0 or not "".join(["a", *near[:verb]]).isalpha() or near[verb + 1 :][:1] == [","]
                )
        elif token in ",;:":
            last = ""


class Caser:
    """Learns from cased text which words have a capital inside a sentence, and after which word."""

    def __init__(self, stories: list[str], books: list[str]) -> None:
        self.seen: dict[bool, Counter[tuple[str, ...]]] = {False: Counter(), True: Counter()}
        for tokens in map(TOKEN.findall, stories):
            for i, last, start in words(tokens):
                word = tokens[i].lower().removesuffix("'s")
                if not start:
                    keys = [(last, word), (str(last in DET), word), (word,)]
                    self.seen[tokens[i][0].isupper()].update(keys)
        found = Counter(w for book in books for w in re.findall(r"(?<=[a-z,] )[A-Za-z]+", book))
        self.common = {w for w in found if w.islower()} | {w for w, *more in self.seen[False] if not more}
        self.names = {w.lower() for w, n in found.items() if w.istitle() and n > 4 + 20 * found[w.lower()]}

    def capital(self, last: str, word: str) -> bool:
        for key in ((last, word), (str(last in DET), word), (word,)):
            if self.seen[True][key] + self.seen[False][key] >= (1 if len(key) == 1 else 3):
                return self.seen[True][key] > self.seen[False][key]
        return word in self.names and last not in DET

    def recase(self, text: str) -> str:
        text = text.lower()
        tokens = TOKEN.findall(text)
        plain = [(i, tokens[i].removesuffix("'s"), last, start) for i, last, start in words(tokens)]
        names = {n for m in NAMED.finditer(text) for n in m.groups() if n and self.seen[False][n,] < 20}
        often, after = Counter(w for _, w, _, _ in plain), {w for _, w, last, _ in plain if last in DET}
        names |= {
            w
            for _, w, _, start in plain
            if start
            and often[w] > 1
            and not NOT_A_NAME.match(w)
            and not {w, w.removesuffix("s")} & (self.common | after)
        }
        for i, word, last, start in plain:
            if (
                start
                or word == "i"
                or word.startswith("i'")
                or self.capital(last, word)
                or word in names
                and last not in DET - {"little", "big", "old"}
            ):
                tokens[i] = {"ok": "OK", "tv": "TV"}.get(word, tokens[i].capitalize())
        return "".join(tokens)


def accuracy(cased: list[str], books: list[str]) -> float:
    """The share of words re-cased as written: learnt on one half of the cased stories, tested on the rest."""
    half = len(cased) // 2
    caser = Caser(cased[:half], books)
    pairs = [p for s in cased[half:] for p in zip(s.split(), caser.recase(s).split(), strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def asks(text: str) -> list[str]:
    return re.split(r"[|\n]", text)


ABOUT = asks("""Tell me a story|Can you tell me a story|Please tell me a story|I want a bedtime story
Write a short story|Could you tell a story|I would like to hear a story|Tell a little story
I am tired. I want a story|Do you know a story|Make up a story|Will you read me a story
Hello! Can I have a story|Tell me a nice story|Write me a story|It is bedtime. Tell me a story
My little sister wants a story|Hi cria! I would like a story|Let's have a story
Give me a short story|Please write a story|I love stories. Tell me a story|tell me a story
write a story|May I have a story|Read me a story""")
ANY = asks("""Tell me a story.|Can you tell me a story?|I want a story, please.|Tell me a bedtime story.
Story time!|Write a short story.|Please tell me a nice little story.|Do you know any stories?""")
WITH = asks("""Write a short story with {} in it.|Tell me a story with {}.|Can you make a story with {} in it?
I want a story that has {} in it.|Make up a little story with {}, please.""")
MORE = asks("""Another one, please.|One more story!|That was nice. Can I have another one?|More, please!
Again! A new one!|I liked that. Tell me one more.|Thank you. Another story, please.""")
REST = asks("""Continue this story: {}|Finish this story: {}|What happens next? {}|Go on with this story: {}
Here is how my story starts. {} How does it go on?|Please write the rest: {}""")
THINGS = set(
    """dog cat ball tree bird fish car boat box cake flower duck bear bunny frog doll kite truck
train hat book star moon rock river apple cookie butterfly bee horse cow pig mouse lion monkey
elephant garden farm castle princess king queen dragon robot bike balloon drum bell rainbow
puddle snowman beach forest owl turtle snail spider ladybug bus plane swing slide pond bridge
key map crayon blanket lamp spoon""".split()
)
HERO = re.compile(r"\b([Aa]n? (?:[a-z]+ ){0,2}[a-z]+) (?:named|called) ([A-Z][a-z]+)\b")
WHO = re.compile(
    r"(?:there (?:was|lived)|One day,|One \w+ day,) (an? (?:[a-z]+ ){0,2}?[a-z]+)"
    r"(?=[.,]| who| that| in | on | with | was | went | saw | and )"
)
PAIR = re.compile(r"^(?:Once upon a time, )?([A-Z][a-z]+ and [A-Z][a-z]+)\b")


def subject(story: str) -> tuple[str, str, str] | None:
    """What the story is about, in words for a request, and the hero's kind and name if its start has them."""
    start = " ".join(re.split(r"(?<=[.!?])\s+", story)[:2])
    if m := HERO.search(start):
        return f"{m[1][0].lower()}{m[1][1:]} named {m[2]}", m[1].split()[-1], m[2]
    m = WHO.search(start) or PAIR.match(start)
    return (m[1], "", "") if m else None


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]


def request(ask: str, what: str) -> str:
    return f"{ask} {what}" + ("?" if re.search(r"\b(can|could|do|will|may)\b (you|I)", ask, re.I) else ".")


def chats(stories: list[str], pick: Random) -> Iterator[list[dict[str, str]]]:
    """One chat a story: asked for by subject, by things in it, freely, as a second one, or to go on with."""
    for i, story in enumerate(stories):
        about, roll = subject(story), pick.random()
        ask = request(pick.choice(ABOUT), f"about {about[0]}") if about else ""
        things = [w for w in dict.fromkeys(re.findall(r"[a-z]+", story)) if w in THINGS]
        parts = re.split(r"(?<=[.!?]) (?=[A-Z])", story.split("\n\n")[0])
        if about and about[2] and roll < 0.2:
            hero = f"{about[1]}'s name"
            yield chat(ask, story, f"What was the {hero}?", f"The {hero} was {about[2]}.")
        elif about and roll < 0.34 and i:
            yield chat(pick.choice(ANY), stories[i - 1], pick.choice(MORE), story)
        elif roll < 0.48 and len(parts) > 2:
            first = " ".join(parts[:2])
            yield chat(pick.choice(REST).format(first), story[len(first) :].strip())
        elif roll < 0.66 and len(things) > 1:
            both = [("an " if w[0] in "aeiou" else "a ") + w for w in pick.sample(things[:6], 2)]
            yield chat(pick.choice(WITH).format(" and ".join(both)), story)
        else:
            yield chat(ask if about and roll < 0.95 else pick.choice(ANY), story)


def unpacked(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(pyarrow.CompressedInputStream(str(path), "zstd"), encoding="utf-8")


def lines(path: Path) -> Iterator[dict[str, str]]:
    yield from map(json.loads, unpacked(path))


def storybooks(path: Path) -> Iterator[tuple[str, str, str]]:
    """Title, text and credit of the short, plain picture books; lines cut for the page are joined."""
    for book in lines(path):
        text = book["text"]
        for bad, good in PLAIN:
            text = text.replace(bad, good)
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
        if whole(text) and len(text.split()) <= 220 and re.fullmatch(r"[A-Za-z ',!?-]+", book["title"]):
            yield book["title"], text, f"{book['credit']}, {book['license']}, {book['source']}"


def main(shared: Path, out: Path) -> None:
    text = shared / "text"
    books = [book["text"] for book in islice(lines(text / "books_simple.jsonl.zst"), 40)]
    cased = [s for s in split((text / "tinystories.txt").read_text()) if whole(s)]
    lower = list(split(unpacked(text / "tinystories_lowercase.txt.zst").read()))
    caser, source = Caser(cased, books), {s: "tinystories" for s in cased}
    known = {re.sub(r"\W+", " ", s.lower()) for s in cased}
    for story in lower:
        key = re.sub(r"\W+", " ", story)
        if key not in known and whole(recased := caser.recase(story)):
            source[recased] = "tinystories_lowercase, re-cased"
        known.add(key)
    held = [s for s in source if int(sha256(s.encode()).hexdigest(), 16) % 100 == 99]
    train = [s for s in source if s not in held]
    short = [s for s in train if len(s.split()) <= 220 and BEGIN.match(s) and not GRIM.search(s)]
    Random(0).shuffle(short)
    made = [{"messages": m, "source": "tinystories"} for m in chats(short, Random(1))]
    made += [
        {"messages": chat(request(ABOUT[i % len(ABOUT)], f'called "{title}"'), tale), "source": credit}
        for i, (title, tale, credit) in enumerate(storybooks(text / "storybooks.jsonl.zst"))
    ]
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("stories", [{"text": s, "source": source[s]} for s in train]),
        ("story_chats", made),
        ("stories_heldout", [{"text": s, "source": source[s]} for s in held]),
    ):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        print(f"{name}: {len(rows):,}")
    print(f"from {len(lower):,} pieces; re-casing right for {accuracy(cased, books):.2%} of unseen words")
    print(*Random(2).sample(train[-1000:], 2), *made[:2], sep="\n\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
