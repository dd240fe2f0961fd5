"""``make demo``: a model that learned from movie reviews meets product reviews."""

from pathlib import Path
from typing import Any

from local.assets import fetch_assets, read_traffic
from local.console import Console
from local.loop_round import Wording, print_round, run_round, save_summary
from local.simulated_review import replayed_ratings
from reviewloop.registry import VersionManifest
from reviewloop.spec import LoopSpec

TRAFFIC_SENTENCES = 1_700
"""Of the 2,889 Amazon sentences that are not the test set: enough for about 500 reviews."""

_WORDING = Wording(
    base="movie sentences",
    traffic="Amazon sentences",
    reviewers="three accounts replay human ratings of each sentence",
    simulated="The reviewing is simulated: each answer is a rating some person once gave to that very sentence; none "
    "was made up.",
)


def run_sentiment_demo(spec: LoopSpec, directory: Path, assets: Path, console: Console) -> dict[str, Any]:
    """Run the whole loop once in a fresh ``directory`` and return the summary, also written there.

    Raises:
        ReviewLoopError: a part did not start, a step failed, or a request failed.
    """
    fetch_assets(assets, console.line)
    sentences = read_traffic(assets)[:TRAFFIC_SENTENCES]
    answers_of = replayed_ratings(sentences, spec.review.annotations_per_task)
    round_ = run_round(spec, directory, [s.text for s in sentences], answers_of, _WORDING, console)
    probe = round_.retrained.evaluation["probes"][0]
    summary = {
        "base": _figures(round_.base),
        "retrained": _figures(round_.retrained),
        "probe": {
            "text": probe["text"],
            "before": probe["champion"]["probabilities"],
            "after": probe["challenger"]["probabilities"],
        },
        **round_.summary(),
    }
    save_summary(summary, round_, directory)
    return summary


def print_sentiment_outcome(summary: dict[str, Any], directory: Path, console: Console) -> None:
    """The difference the reviews made, and where to look next."""
    base, retrained, probe = summary["base"], summary["retrained"], summary["probe"]
    console.phase("The difference")
    figures = {
        "accuracy on 800 unseen Amazon sentences": "amazon_accuracy",
        "accuracy on unseen movie sentences": "movies_accuracy",
        "macro F1 on Amazon": "amazon_macro_f1",
        "calibration error on Amazon": "ece",
    }
    rows = [(title, f"{base[name]:.3f}", f"{retrained[name]:.3f}") for title, name in figures.items()]
    rows.append((f"\u201c{probe['text']}\u201d", _top(probe["before"]), _top(probe["after"])))
    console.table(("", "before", "after"), rows)
    print_round(summary, "accuracy on Amazon", "sentences", directory, console)
    console.line(f"Look around in it: reviewloop up --state {directory}")


def _figures(manifest: VersionManifest) -> dict[str, float]:
    test_sets = {name: t["challenger"] for name, t in manifest.evaluation["test_sets"].items()}
    return {
        "movies_accuracy": test_sets["movies"]["score"],
        "amazon_accuracy": test_sets["amazon"]["score"],
        "amazon_macro_f1": test_sets["amazon"]["macro_f1"],
        "ece": test_sets["amazon"]["ece"],
    }


def _top(probabilities: dict[str, float]) -> str:
    label = max(probabilities, key=probabilities.__getitem__)
    return f"{label} {probabilities[label]:.3f}"
