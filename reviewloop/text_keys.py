"""Keys over normalised text: one for identity, a coarser one for near-duplicates, and stable draws from either."""

import hashlib
import hmac
import unicodedata

KEY_LENGTH = 32
"""Hexadecimal characters in a key: 128 bits, so that collisions do not happen in practice."""


def normalize_text(text: str) -> str:
    """Unicode NFKC, case-folded, runs of white space made one space, ends stripped."""
    if text.isascii():  # Which NFKC leaves as it is.
        return " ".join(text.casefold().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Again, because folding can leave letters that compose with the mark that follows them.
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def content_key(text: str) -> str:
    """The identity of a text in the loop: 32 hexadecimal characters of SHA-256 over the normalised text.

    Two requests with the same key are one review task.
    """
    return _digest(normalize_text(text))


def near_duplicate_key(text: str) -> str:
    """A key that also ignores punctuation and symbols, for keeping test texts out of training.

    A text without a letter or digit (an emoticon, say) keeps its symbols, since nothing else tells it apart.
    """
    normalized = normalize_text(text)
    words = "".join(c if c.isalnum() or _is_mark(c) else " " for c in normalized).split()
    return _digest(" ".join(words) if words else normalized)


def uniform_draw(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on ``key`` and ``salt`` alone.

    Comparing it with a rate gives consistent (hash-based) sampling: every replica and every repeat of a text
    agrees, and the inclusion probability of a text is exactly the rate, however often it is sent. See
    Duffield & Grossglauser, "Trajectory Sampling for Direct Traffic Observation", IEEE/ACM ToN 2001.
    Different salts give independent draws.
    """
    digest = hmac.digest(salt.encode(), key.encode(), "sha256")
    return int.from_bytes(digest[:7], "big") / 2**56


def _is_mark(character: str) -> bool:
    # Vowel signs, in many scripts; the variation selectors that follow emoji are marks too, but nobody's letters.
    return unicodedata.category(character) in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:KEY_LENGTH]
