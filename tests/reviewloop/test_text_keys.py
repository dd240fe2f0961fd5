"""Keys over text: which variants of a text are one, and whether draws are fair."""

import unicodedata

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reviewloop.text_keys import KEY_LENGTH, content_key, near_duplicate_key, normalize_text, uniform_draw

WORDS = st.lists(st.text("abcxyzABCXYZäßéИж019", min_size=1, max_size=8), min_size=1, max_size=6)
PUNCTUATION = st.text(" .,;:!?-—…\"'()[]#@*/\t\n", min_size=1, max_size=3).map(lambda s: f" {s} ")


@given(st.text())
@example("ß\u0302")
@example("ΐ")
@example("İ\u0331")
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@given(st.text(), st.sampled_from([str.upper, str.lower, str.swapcase, str.title]))
def test_texts_that_differ_in_case_alone_share_a_key(text: str, change_case: object) -> None:
    variant = change_case(text)  # type: ignore[operator]
    assume(variant.casefold() == text.casefold())
    assert content_key(variant) == content_key(text)


@given(WORDS, st.data())
def test_texts_that_differ_in_white_space_alone_share_a_key(words: list[str], data: st.DataObject) -> None:
    space = st.text(" \t\n\r\u00a0\u2003\u3000", min_size=1, max_size=3)
    ends = st.sampled_from(["", " ", "\n", "\u00a0"])
    variant = data.draw(ends) + "".join(word + data.draw(space) for word in words) + data.draw(ends)
    assert content_key(variant) == content_key(" ".join(words))


@given(st.text())
def test_texts_that_differ_in_unicode_composition_alone_share_a_key(text: str) -> None:
    assert content_key(unicodedata.normalize("NFD", text)) == content_key(unicodedata.normalize("NFC", text))


@given(WORDS, st.data())
def test_texts_that_differ_in_punctuation_alone_are_near_duplicates(words: list[str], data: st.DataObject) -> None:
    variant = data.draw(PUNCTUATION) + "".join(word.upper() + data.draw(PUNCTUATION) for word in words)
    assert near_duplicate_key(variant) == near_duplicate_key(" ".join(words))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It works.", "It works!"),
        ("It works", "It never works"),
        ("1.5 stars", "15 stars"),
        ("ﬁne", "wine"),
    ],
)
def test_texts_that_differ_in_more_have_different_content_keys(one: str, other: str) -> None:
    assert content_key(one) != content_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(":-)", ":-("), ("👍", "👎"), ("!", "?"), ("❤", "💔"), ("अच्छा", "अच्छी"), ("ดี", "ดู")],
    ids=["smileys", "thumbs", "marks", "hearts", "Devanagari vowels", "Thai vowels"],
)
def test_what_tells_short_texts_apart_is_kept(one: str, other: str) -> None:
    assert near_duplicate_key(one) != near_duplicate_key(other)


def test_an_emoji_beside_words_does_not_make_a_new_text() -> None:
    assert near_duplicate_key("I love it ❤️") == near_duplicate_key("I love it ❤") == near_duplicate_key("I love it!")


@given(st.text(st.characters(codec=None)))
def test_any_text_has_keys_of_the_stated_length(text: str) -> None:
    for key in (content_key(text), near_duplicate_key(text)):
        assert len(key) == KEY_LENGTH
        assert int(key, 16) >= 0


KEYS = [content_key(f"text number {n}") for n in range(20_000)]


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.9])
def test_draws_fall_below_a_rate_that_often(rate: float) -> None:
    draws = np.array([uniform_draw(key, "audit") for key in KEYS])
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    # Five standard deviations.
    assert abs((draws < rate).mean() - rate) < 5 * (rate * (1 - rate) / len(KEYS)) ** 0.5


def test_draws_with_different_salts_are_independent() -> None:
    one, other = (np.array([uniform_draw(key, salt) for key in KEYS]) for salt in ("test", "validation"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / len(KEYS) ** 0.5
    assert abs(((one < 0.3) & (other < 0.3)).mean() - 0.09) < 5 * (0.09 * 0.91 / len(KEYS)) ** 0.5


def test_a_draw_never_changes() -> None:
    assert uniform_draw("key", "salt") == uniform_draw("key", "salt") == pytest.approx(0.58454, abs=5e-6)
