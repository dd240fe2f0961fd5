"""When a challenger is promoted: the interval it must earn, and each floor that can stop it."""

from typing import Any

import numpy as np
import pytest

from components.evaluate.metrics import TestSetMetrics, micro_f1
from components.evaluate.promotion import PairedDifference, decide, paired_bootstrap
from reviewloop.spec import PromotionSpec
from reviewloop.task_types.base import ClassScore, Counts

RIGHT, WRONG = Counts(1, 0, 0), Counts(0, 1, 1)
"""Where a text has one label."""


def compared(won: int, lost: int, same: int) -> PairedDifference:
    """The 95% interval where the challenger alone is right ``won`` times and the champion alone ``lost`` times."""
    champion = [WRONG] * won + [RIGHT] * lost + [RIGHT] * same
    challenger = [RIGHT] * won + [WRONG] * lost + [RIGHT] * same
    return paired_bootstrap(champion, challenger, 0.95, seed=7)


def test_the_difference_is_the_gain_in_accuracy_and_lies_in_its_interval() -> None:
    difference = compared(won=30, lost=10, same=160)
    assert difference.delta == pytest.approx(0.1)
    assert difference.low < 0.1 < difference.high
    # Normal theory for paired differences: 1.96 times the square root of (40/200 - 0.1 squared) / 200.
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * ((0.2 - 0.01) / 200) ** 0.5, rel=0.06)


def test_models_that_answer_alike_differ_by_nothing() -> None:
    difference = compared(won=0, lost=0, same=50)
    assert (difference.delta, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_swapping_the_models_mirrors_the_interval() -> None:
    one, other = compared(won=30, lost=10, same=160), compared(won=10, lost=30, same=160)
    assert one.delta == -other.delta
    assert one.low == pytest.approx(-other.high, abs=0.011)
    assert one.high == pytest.approx(-other.low, abs=0.011)


def test_four_times_the_examples_halve_the_interval() -> None:
    widths = [d.high - d.low for d in (compared(30, 10, 160), compared(120, 40, 640))]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.1)


def test_a_higher_confidence_widens_the_interval() -> None:
    champion, challenger = [RIGHT, WRONG] * 100, [RIGHT, WRONG, RIGHT, RIGHT] * 50
    narrow, wide = (paired_bootstrap(champion, challenger, level, seed=7) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval() -> None:
    assert compared(30, 10, 160) == compared(30, 10, 160)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        # The challenger wins 15% and loses 10% of the time: a true difference of 0.05.
        kind = random.choice(3, p=[0.15, 0.10, 0.75], size=400)
        champion, challenger = ([WRONG if wrong else RIGHT for wrong in kind == other] for other in (0, 1))
        difference = paired_bootstrap(champion, challenger, 0.95, seed=7)
        covered += difference.low <= 0.05 <= difference.high
    assert 0.91 <= covered / 300 <= 0.98


def several(size: int, seed: int, found: float) -> list[Counts]:
    """Counts of texts with up to four things to find, of which a share is found, and one in ten made up."""
    random = np.random.default_rng(seed)
    present = random.integers(0, 5, size)
    hits = random.binomial(present, found)
    return [
        Counts(int(hit), int(extra), int(there - hit))
        for there, hit, extra in zip(present, hits, random.binomial(4, 0.1, size), strict=True)
    ]


def test_where_a_text_has_several_labels_the_difference_is_that_of_their_f1() -> None:
    champion, challenger = several(300, 1, found=0.6), several(300, 1, found=0.8)
    difference = paired_bootstrap(champion, challenger, 0.95, seed=7)
    assert difference.delta == pytest.approx(micro_f1(challenger) - micro_f1(champion))
    assert 0.0 < difference.low < difference.delta < difference.high
    mirrored = paired_bootstrap(challenger, champion, 0.95, seed=7)
    assert mirrored.delta == pytest.approx(-difference.delta)


def test_the_interval_of_an_f1_is_that_of_resampled_texts() -> None:
    champion, challenger = several(200, 1, found=0.6), several(200, 1, found=0.7)
    random = np.random.default_rng(0)
    drawn = [random.integers(0, 200, 200) for _ in range(3_000)]
    by_hand = [micro_f1([challenger[i] for i in d]) - micro_f1([champion[i] for i in d]) for d in drawn]
    low, high = np.quantile(by_hand, [0.05, 0.95])
    difference = paired_bootstrap(champion, challenger, 0.9, seed=7)
    assert difference.low == pytest.approx(low, abs=0.005)
    assert difference.high == pytest.approx(high, abs=0.005)


def test_texts_in_which_nothing_is_to_be_found_change_nothing() -> None:
    champion, challenger = several(100, 1, found=0.6), several(100, 1, found=0.7)
    nothing = [Counts(0, 0, 0)] * 50
    without, among = (paired_bootstrap(champion + more, challenger + more, 0.95, seed=7) for more in ([], nothing))
    assert among.delta == pytest.approx(without.delta)
    empty = paired_bootstrap(nothing, nothing, 0.95, seed=7)
    assert (empty.delta, empty.low, empty.high) == (0.0, 0.0, 0.0)


def test_the_first_to_find_anything_at_all_gains_everything() -> None:
    difference = paired_bootstrap([Counts(0, 0, 1)] * 20, [Counts(1, 0, 0)] * 20, 0.95, seed=7)
    assert (difference.delta, difference.low, difference.high) == (1.0, 1.0, 1.0)


RULE = PromotionSpec(confidence=0.95, min_gain=0.0, max_drop=0.015, max_class_drop=0.1)


def metrics(f1: float = 0.8, support: int = 100) -> TestSetMetrics:
    """Metrics of which only the classes matter here; the F1 of class ``good`` is given."""
    classes = {"bad": ClassScore(0.8, 0.8, 0.8, 100), "good": ClassScore(0.8, 0.8, f1, support)}
    return TestSetMetrics(200, 0.8, 0.8, 0.8, 0.05, classes, None, [])


def verdict(
    primary: tuple[float, float, float] = (0.05, 0.02, 0.08),
    other: float = 0.0,
    champion: TestSetMetrics | None = None,
    challenger: TestSetMetrics | None = None,
    **rule: Any,
) -> tuple[str, str]:
    """The decision on a challenger that is better on amazon, except for what is given, and its reasons."""
    differences = {"amazon": PairedDifference(*primary, 0.95), "movies": PairedDifference(other, -0.1, 0.1, 0.95)}
    before = {"amazon": metrics(), "movies": champion or metrics()}
    now = {"amazon": metrics(), "movies": challenger or metrics()}
    decision = decide("amazon", differences, before, now, RULE.model_copy(update=rule), "accuracy")
    return decision.verdict, " ".join(decision.reasons)


def test_a_better_challenger_that_gives_nothing_away_is_promoted() -> None:
    assert verdict() == (
        "promoted",
        "On amazon the accuracy changes by +0.050, 95% interval [+0.020, +0.080]; "
        "no other test set and no class falls further than allowed.",
    )


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"primary": (0.05, -0.01, 0.1)}, "On amazon .* by +0.050, but the 95% interval [-0.010, +0.100] does not"),
        ({"primary": (0.0, 0.0, 0.0)}, "does not lie above +0.000."),
        ({"min_gain": 0.03}, "does not lie above +0.030."),
        ({"other": -0.02}, "On movies the accuracy falls by 0.020, more than the 0.015 allowed."),
        (
            {"challenger": metrics(f1=0.69)},
            "On movies the F1 of class good falls by 0.110, more than the 0.100 allowed.",
        ),
    ],
    ids=["not surely better", "no difference", "too little gain", "another test set", "a class"],
)
def test_each_floor_alone_refuses_and_says_so(case: dict[str, Any], reason: str) -> None:
    decided, sentence = verdict(**case)
    assert decided == "refused"
    assert all(part in sentence for part in reason.split(" .* "))
    assert sentence.count("On ") == 1


@pytest.mark.parametrize(
    "case",
    [
        {"other": -0.015},
        {"challenger": metrics(f1=0.70001)},
        {"challenger": metrics(f1=0.1, support=29), "champion": metrics(support=29)},
        {"primary": (-0.01, -0.04, 0.02), "min_gain": -0.05},
        {"other": -0.2, "max_drop": 0.2},
    ],
    ids=["just allowed", "class just allowed", "too few to veto", "a loss is allowed", "a looser floor"],
)
def test_what_the_rule_allows_does_not_refuse(case: dict[str, Any]) -> None:
    assert verdict(**case)[0] == "promoted"


def test_every_reason_to_refuse_is_given() -> None:
    decided, sentence = verdict(primary=(-0.1, -0.2, 0.0), other=-0.2, challenger=metrics(f1=0.0))
    assert decided == "refused"
    assert sentence.count("On ") == 3


def test_a_class_is_guarded_on_the_deciding_test_set_too() -> None:
    difference = {"amazon": PairedDifference(0.05, 0.02, 0.08, 0.95)}
    decision = decide("amazon", difference, {"amazon": metrics()}, {"amazon": metrics(f1=0.5)}, RULE, "any")
    assert decision.verdict == "refused"


def test_the_reasons_name_the_metric_of_the_task() -> None:
    differences = {"amazon": PairedDifference(0.05, 0.02, 0.08, 0.95), "movies": PairedDifference(0.0, 0.0, 0.0, 0.95)}
    same = {name: metrics() for name in differences}
    promoted = decide("amazon", differences, same, same, RULE, "entity F1")
    refused = decide("movies", differences, same, same, RULE, "entity F1")
    assert promoted.reasons[0].startswith("On amazon the entity F1 changes by +0.050, 95% interval")
    assert refused.reasons[0].startswith("On movies the entity F1 changes by +0.000, but the 95% interval")
