"""The proof that nothing leaks: no text of a test set, nor a near-duplicate of one, is ever trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from components.data_merge.splits import Splits, split_examples
from reviewloop.records import Example
from reviewloop.text_keys import content_key

STEMS = [
    f"{subject} {verb} {degree}"
    for subject in ("it", "this film")
    for verb in ("works", "fails", "bores")
    for degree in ("well", "never", "2 times")
]
TEST_FRACTION, VALIDATION_FRACTION = 0.4, 0.3


@dataclass(frozen=True)
class Variant:
    """One way of writing the text ``STEMS[stem]``; what makes two of them near-duplicates is ``stem`` alone."""

    stem: int
    example: Example


@st.composite
def variants(draw: st.DrawFn, source: str) -> Variant:
    """A stem with other case, space and punctuation, and some label."""
    stem = draw(st.integers(0, len(STEMS) - 1))
    change_case = draw(st.sampled_from([str.lower, str.upper, str.title]))
    between = draw(st.sampled_from([" ", "  ", "\t", ", ", " – ", "…"]))
    text = between.join(change_case(STEMS[stem]).split())
    text = draw(st.sampled_from(["", " ", '"', "¡"])) + text + draw(st.sampled_from(["", ".", "!!", " ?", "\n"]))
    return Variant(stem, Example(text, draw(st.sampled_from(["bad", "good"])), source))


def lists(source: str) -> st.SearchStrategy[list[Variant]]:
    """Some examples with duplicates and near-duplicates among them."""
    return st.lists(variants(source), max_size=25)


def split(
    base: list[Variant], reviewed: list[Variant], tests: dict[str, list[Variant]], machine: Sequence[Variant] = ()
) -> Splits:
    """The splits of these examples."""
    return split_examples(
        [v.example for v in base],
        "movies",
        [v.example for v in reviewed],
        [v.example for v in machine],
        {name: [v.example for v in test] for name, test in tests.items()},
        TEST_FRACTION,
        VALIDATION_FRACTION,
    )


def stems(examples: list[Example], *origins: list[Variant]) -> set[int]:
    """Which texts these are, whatever way they are written."""
    by_text = {v.example.text: v.stem for origin in origins for v in origin}
    return {by_text[e.text] for e in examples}


@given(lists("movies"), lists("reviews"), lists("machine"), lists("amazon"), lists("news"))
def test_no_text_of_any_test_set_nor_a_near_duplicate_is_trained_on(
    base: list[Variant], reviewed: list[Variant], machine: list[Variant], amazon: list[Variant], news: list[Variant]
) -> None:
    splits = split(base, reviewed, {"amazon": amazon, "news": news}, machine)
    given_to = [*base, *reviewed, *machine, *amazon, *news]
    assert set(splits.tests) == {"movies", "amazon", "news"}
    trained_on = stems([*splits.train, *splits.validation], given_to)
    tested_on = {name: stems(examples, given_to) for name, examples in splits.tests.items()}
    for name, in_test in tested_on.items():
        assert not trained_on & in_test, name
    assert tested_on["amazon"] == {v.stem for v in amazon}
    assert tested_on["news"] == {v.stem for v in news}
    assert not stems(splits.train, given_to) & stems(splits.validation, given_to)


@given(lists("movies"), lists("reviews"), lists("amazon"))
def test_every_text_is_used_once_and_what_is_left_out_is_counted(
    base: list[Variant], reviewed: list[Variant], amazon: list[Variant]
) -> None:
    splits = split(base, reviewed, {"amazon": amazon})
    used = [*splits.train, *splits.validation, *splits.tests["movies"], *splits.tests["amazon"]]
    assert len(stems(used, base, reviewed, amazon)) == len(used)
    assert stems(used, base, reviewed, amazon) == {v.stem for v in [*base, *reviewed, *amazon]}
    assert splits.duplicates == len(base) - len({v.stem for v in base})
    in_amazon = {v.stem for v in amazon}
    own_test = stems(splits.tests["movies"], base)
    assert splits.kept_from_training == (
        len({v.stem for v in base} & in_amazon) + len({v.stem for v in reviewed} & (in_amazon | own_test))
    )


@given(lists("movies"), lists("movies"), lists("reviews"), lists("reviews"), lists("amazon"))
def test_more_data_and_more_reviews_move_nothing(
    base: list[Variant],
    more: list[Variant],
    reviewed: list[Variant],
    more_reviewed: list[Variant],
    amazon: list[Variant],
) -> None:
    before = split(base, reviewed, {"amazon": amazon})
    after = split([*base, *more], [*reviewed, *more_reviewed], {"amazon": amazon})
    assert before.tests["movies"] == [e for e in after.tests["movies"] if e in before.tests["movies"]]
    assert before.tests["amazon"] == after.tests["amazon"]
    given_to = [base, more, reviewed, more_reviewed]
    # A text that was known from reviews alone, and that the base data hold now, may have become a test text.
    new_in_base = {v.stem for v in more} - {v.stem for v in base}
    assert stems(before.train, *given_to) - new_in_base <= stems(after.train, *given_to)
    assert stems(before.validation, *given_to) - new_in_base <= stems(after.validation, *given_to)


@given(lists("movies"), lists("reviews"))
def test_a_reviewed_text_replaces_the_same_text_of_the_base_data(base: list[Variant], reviewed: list[Variant]) -> None:
    splits = split(base, reviewed, {})
    first_answer = {v.stem: v.example for v in reversed(reviewed)}
    for example in [*splits.train, *splits.validation]:
        (stem,) = stems([example], base, reviewed)
        assert example == first_answer.get(stem, example)
        assert example.source == ("reviews" if stem in first_answer else "movies")


@given(lists("movies"), lists("reviews"), lists("machine"), lists("amazon"))
def test_a_machines_label_trains_where_no_person_said_anything_and_does_nothing_else(
    base: list[Variant], reviewed: list[Variant], machine: list[Variant], amazon: list[Variant]
) -> None:
    without, splits = (split(base, reviewed, {"amazon": amazon}, labels) for labels in ([], machine))
    assert (splits.validation, splits.tests) == (without.validation, without.tests)
    assert (splits.duplicates, splits.kept_from_training) == (without.duplicates, without.kept_from_training)
    added = splits.train[len(without.train) :]
    assert splits.train == [*without.train, *added]
    known = {v.stem for v in (*base, *reviewed, *amazon)}
    first = {v.stem: v.example for v in reversed(machine) if v.stem not in known}
    assert sorted(e.text for e in added) == sorted(e.text for e in first.values())


def test_the_shares_are_those_asked_for() -> None:
    base = [Example(f"text number {n}", "good", "movies") for n in range(4_000)]
    splits = split_examples(base, "movies", [], [], {}, test_fraction=0.25, validation_fraction=0.1)
    assert abs(len(splits.tests["movies"]) / 4_000 - 0.25) < 0.04
    assert abs(len(splits.validation) / 3_000 - 0.1) < 0.03
    assert len(splits.train) + len(splits.validation) + len(splits.tests["movies"]) == 4_000


def test_the_first_label_of_a_repeated_text_counts_and_the_contradiction_is_told() -> None:
    base = [Example("it works", label, "films") for label in ("good", "bad", "good")]
    splits = split_examples(base, "films", [], [], {}, 0.1, 0.1)
    assert [e.label for e in (*splits.train, *splits.validation, *splits.tests["films"])] == ["good"]
    assert (splits.duplicates, splits.contradictions) == (2, [content_key("it works")])
