"""What was left out, and how it is counted."""

from reviewloop.problems import MAX_PLACES, Problems


def test_problems_are_counted_by_kind_with_their_first_places() -> None:
    problems = Problems()
    for number in range(MAX_PLACES + 5):
        problems.add("empty text", f"row {number}")
    problems.add("unknown label", "task 7", "'maybe'")
    assert problems.summary() == {
        "empty text": {"count": MAX_PLACES + 5, "where": [f"row {number}" for number in range(MAX_PLACES)]},
        "unknown label": {"count": 1, "where": ["task 7: 'maybe'"]},
    }


def test_without_problems_the_summary_is_empty() -> None:
    assert Problems().summary() == {}
