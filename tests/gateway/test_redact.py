"""Redaction finds what it says, leaves the rest as it is, and ends soon whatever the text or expression."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import HerdError
from herd.gateway.redact import RULES, check_rules, redact, redact_row

ALL = tuple(RULES)
KEY = "ab12CD34" * 5


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("email", "write to ann.o'neil+x@mail.example.co.uk.", "write to ann.o'[email]."),
        ("email", "<bob@example.com>,jürgen@bücher.example", "<[email]>,[email]"),
        ("email", "a@b.c", "*****"),
        ("email", "no@where, @handle, a@b", "no@where, @handle, a@b"),
        ("email", "x" * 300 + "@example.org", "[email]"),
        ("card", "4111 1111 1111 1111", "[card]"),
        ("card", "5500-0000-0000-0004, 340000000000009", "[card], [card]"),
        ("card", "pay 4111111111111111 now", "pay [card] now"),
        ("card", "4111 1111 1111 1111 12 2027", "[card] 12 2027"),
        (
            "card",
            "order 1 4111 1111 1111 1111 of 9999 1111 2222 3333 5500 0000 0000 0004",
            "order 1 [card] of 9999 1111 2222 3333 [card]",
        ),
        ("card", "card-4111111111111111/5500000000000004", "card-[card]/[card]"),
        ("card", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        (
            "card",
            "at 1732561234567, order 12345678901234567890123",
            "at 1732561234567, order 12345678901234567890123",
        ),
        ("iban", "DE89 3704 0044 0532 0130 00 AND more", "[iban] AND more"),
        ("iban", "GB82WEST12345698765432", "[iban]"),
        ("iban", "DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("phone", "+44 20 7946 0958 or (415) 555-0132", "[phone] or [phone]"),
        ("phone", "415-555-0132, 030 1234567", "[phone], [phone]"),
        (
            "phone",
            "05-06-2024 10, 2024-05-06 10:20:30, 3.14159265, 1,000,000",
            "05-06-2024 10, 2024-05-06 10:20:30, 3.14159265, 1,000,000",
        ),
        ("ip", "from 192.168.0.1 and 2001:db8::8a2e:370:7334.", "from [ip] and [ip]."),
        ("ip", "::1, ::ffff:10.0.0.1", "***, [ip]"),
        ("ip", "10:20:30, std::vector, 999.1.1.1, 1.2.3.4.5", "10:20:30, std::vector, 999.1.1.1, 1.2.3.4.5"),
        ("secret", f"OPENAI_API_KEY=sk-proj-{KEY}", "OPENAI_API_KEY=[secret]"),
        (
            "secret",
            f"hk-{KEY} sk_live_{KEY} AKIAIOSFODNN7EXAMPLE ghp_{KEY}",
            "[secret] [secret] [secret] [secret]",
        ),
        ("secret", f"Authorization: Bearer {KEY}==", "Authorization: [secret]"),
        ("secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!", "[secret]!"),
        ("secret", "a risk-assessment-of-something-long, sk-8", "a risk-assessment-of-something-long, sk-8"),
        (
            "secret",
            f"x -----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY----- y",
            "x [secret] y",
        ),
        ("secret", f"cut off: -----BEGIN PRIVATE KEY-----\n{KEY}", "cut off: [secret]"),
        (r"EMP-\d{4,8}", "EMP-00123 and EMP-1", "********* and EMP-1"),
        (r"(?i)project [a-z]{3,20}", "Project Bluebird starts", "[redacted] starts"),
    ],
)
def test_what_a_rule_finds(rule: str, before: str, after: str) -> None:
    assert redact(before, [rule]) == after


def test_a_list_of_numbers_is_found_to_its_end() -> None:
    assert redact(" ".join(["4111 1111 1111 1111"] * 50), ["card"]) == " ".join(["[card]"] * 50)
    assert redact(" ".join(["DE89 3704 0044 0532 0130 00"] * 50), ["iban"]) == " ".join(["[iban]"] * 50)


def test_a_card_is_no_telephone_number() -> None:
    assert redact("+4111 1111 1111 1111; 4111 1111 1111 1111", ["phone", "card"]).endswith("; [card]")


PIECES = st.sampled_from(
    ["ann@example.com", "4111 1111 1111 1111", "+44 20 7946 0958", f"sk-{KEY}", "10.0.0.1", "::1", "a@b.c", " ", "-", ".",
     "[email]", "[redacted]", "*", "DE89370400440532013000", "EMP-12345", "0", "7", "x", "@", ":", "(", ")", "\n", "é"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join))
EXPRESSIONS = st.lists(
    st.sampled_from(
        [*ALL, r"\w{1,12}", r".{10}", r"\[\*{1,9}\]", r"EMP-\d{1,9}", r"[a-z]{1,8}@", r"^.{3,20}$"]
    ),
    max_size=8,
)


@settings(max_examples=600, deadline=None)
@given(TEXTS, EXPRESSIONS)
def test_again_changes_nothing_and_text_never_grows(text: str, rules: list[str]) -> None:
    once = redact(text, rules)
    assert redact(once, rules) == once
    assert len(once) <= len(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abcdefghij ,!?\n", max_size=200))
def test_plain_words_stay(text: str) -> None:
    assert redact(text, ALL) == text


def test_all_text_of_a_generation_is_redacted_and_its_form_stays() -> None:
    mail, card = "ann@example.com", 4111111111111111
    row: dict[str, Any] = {
        "id": "chatcmpl-1", "target": "openai/gpt-4o", "key": "k", "conversation": "c", "reply": f"mail {mail}",
        "reasoning": f"her address is {mail}", "error": f"refused: {mail}", "labels": {"user": mail, mail: [mail]},
        "calls": [{"id": "call_1", "name": "send", "arguments": json.dumps({"to": mail, "card": card, "n": 3})}],
        "response": {"object": "response", "instructions": mail, "metadata": {"name": mail}},
        "request": {
            "route": "assistant", "kind": "chat", "sampling": {"stop": [mail], "temperature": 0.0},
            "labels": {"user": mail}, "extra": {"prediction.content": mail},
            "tools": [{"name": "send", "description": f"to {mail}", "parameters": {"properties": {"name": {"enum": [mail]}}}}],
            "format": {"kind": "json_schema", "schema": {"const": mail}},
            "messages": [
                {"role": "user", "content": mail, "name": mail, "images": [{"url": f"data:image/png;base64,{mail}"},
                                                                            {"url": f"https://example.com/?q={mail}"}]},
                {"role": "assistant", "content": "", "reasoning": mail,
                 "tool_calls": [{"id": "call_1", "name": "send", "arguments": f'{{"to": "{mail}"}}'}]},
                {"role": "tool", "content": mail, "tool_call_id": "call_1"},
            ],
        },
    }  # fmt: skip
    clean = redact_row(row, ["email", "card"])
    assert json.dumps(clean).count(mail) == 1  # in the picture's bytes
    assert json.dumps(row).count(mail) > 15  # the caller's own stays as it is
    assert str(card) not in json.dumps(clean)
    assert json.loads(clean["calls"][0]["arguments"]) == {"to": "[email]", "card": "[card]", "n": 3}
    assert (
        clean["request"]["tools"][0]["name"] == "send" and clean["request"]["messages"][2]["role"] == "tool"
    )
    assert clean["request"]["extra"] == {"prediction.content": "[email]"}
    assert {k: clean[k] for k in ("id", "target", "key", "conversation")} == {
        k: row[k] for k in ("id", "target", "key", "conversation")
    }


def test_a_word_that_is_a_role_does_not_break_the_form() -> None:
    row = {"request": {"messages": [{"role": "user", "content": "the user user1"}]}, "reply": "user"}
    clean = redact_row(row, ["[u]ser"])
    assert clean["request"]["messages"][0] == {"role": "user", "content": "the **** ****1"}
    assert clean["reply"] == "****"


@pytest.mark.parametrize(
    "rule",
    ["emial", "(", "a*", "", "(a+)+b", "(?:a|a){1,50}b", "[a-z]{1,50}[a-z]{1,50}x", r"(a)\1", ".{1,5000}", "x" * 600,
     "(?:a?){30}b", "(?=(a+)+)b", r"\d+", "(((((a{1,9}){1,9}){1,9}){1,9}){1,9}){1,9}b", "(?P<n>a)(?(n)b|c)"],
)  # fmt: skip
def test_an_expression_that_is_wrong_or_slow_is_refused_at_once(rule: str) -> None:
    began = time.thread_time()
    with pytest.raises(HerdError, match="redact"):
        check_rules(["email", rule])
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "1" * 200_000, "1 " * 100_000, "a@" * 100_000, "a." * 100_000, "@" * 200_000, "sk-" * 70_000,
     "-----BEGIN PRIVATE KEY-----" * 7000, "eyJaaaaaaaa." * 20_000, "1.1." * 50_000, ":" * 200_000, "AB12 " * 40_000,
     "+1 " * 70_000, "(" * 200_000, "a@b." * 50_000, "a@" + "b-" * 100_000, "Bearer " * 30_000, "4 4-" * 50_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    began = time.thread_time()
    redact(text, ALL)
    assert time.thread_time() - began < 5  # tens of times what it takes; a quadratic one would need minutes


def test_json_of_great_depth_is_redacted_as_text() -> None:
    deep = "[" * 100_000 + '"ann@example.com"'
    row = {"calls": [{"arguments": deep}], "request": {}}
    assert redact_row(row, ["email"])["calls"][0]["arguments"].endswith('"[email]"')
