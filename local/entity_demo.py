"""``make demo-ner``: a model that learned entities from reports meets chat messages. All texts are generated."""

import json
from pathlib import Path
from typing import Any

from local.assets import fetch_assets
from local.console import Console
from local.entity_texts import EntityText, generate_texts
from local.loop_round import Wording, print_round, run_round, save_summary
from local.simulated_review import erring_reviewers
from reviewloop.registry import VersionManifest
from reviewloop.spec import LoopSpec
from reviewloop.text_keys import near_duplicate_key

REPORTS, TRAFFIC, TEST = 700, 300, 400
"""Texts of the base data, the traffic, and the held-out chat messages."""

REPORTS_FILE, TEST_FILE = "entities-reports.jsonl", "entities-chat-test.jsonl"

ERROR_RATE = 0.1
"""Share of the texts at which a simulated reviewer makes a mistake."""

_WORDING = Wording(
    base="generated reports",
    traffic="generated chat messages",
    reviewers="three simulated reviewers mark the entities",
    simulated=f"The reviewing is simulated: each reviewer knows the entities the text was generated with, and makes a "
    f"mistake at {ERROR_RATE:.0%} of the texts.",
)


def run_entity_demo(spec: LoopSpec, directory: Path, assets: Path, console: Console) -> dict[str, Any]:
    """Run the whole loop once in a fresh ``directory`` and return the summary, also written there.

    Raises:
        ReviewLoopError: a part did not start, a step failed, or a request failed.
    """
    fetch_assets(assets, console.line)
    traffic = write_entity_texts(assets)
    answers_of = erring_reviewers(traffic, spec.review.annotations_per_task, ERROR_RATE)
    round_ = run_round(spec, directory, [t.text for t in traffic], answers_of, _WORDING, console)
    summary = {"base": _figures(round_.base), "retrained": _figures(round_.retrained), **round_.summary()}
    save_summary(summary, round_, directory)
    return summary


def print_entity_outcome(summary: dict[str, Any], directory: Path, console: Console) -> None:
    """The difference the reviews made, and where to look next."""
    console.phase("The difference")
    figures = {
        f"entity F1 on {TEST} unseen chat messages": "chat_f1",
        "chat messages with every entity right": "chat_exact",
        "entity F1 on unseen reports": "reports_f1",
        "calibration error on chat": "ece",
    }
    base, retrained = summary["base"], summary["retrained"]
    console.table(
        ("", "before", "after"),
        [(title, f"{base[name]:.3f}", f"{retrained[name]:.3f}") for title, name in figures.items()],
    )
    print_round(summary, "entity F1 on chat", "messages", directory, console)
    console.line(f"Look around in it: reviewloop up --loop examples/entities.yaml --state {directory}")


def write_entity_texts(directory: Path) -> list[EntityText]:
    """Generate the base data and the held-out chat messages into ``directory``; the traffic.

    Half of the templates of the held-out messages occur nowhere else, and no message of the traffic is among them.
    """
    test = generate_texts(("chat", "new chat"), TEST, seed=3)
    held_out = {near_duplicate_key(t.text) for t in test}
    chat = generate_texts(("chat",), TRAFFIC + TEST, seed=2)
    traffic = [t for t in chat if near_duplicate_key(t.text) not in held_out][:TRAFFIC]
    for name, texts in ((REPORTS_FILE, generate_texts(("report",), REPORTS, seed=1)), (TEST_FILE, test)):
        with (directory / name).open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": t.text, "label": t.label}, ensure_ascii=False) + "\n" for t in texts)
    return traffic


def _figures(manifest: VersionManifest) -> dict[str, float]:
    test_sets = {name: t["challenger"] for name, t in manifest.evaluation["test_sets"].items()}
    return {
        "reports_f1": test_sets["reports"]["score"],
        "chat_f1": test_sets["chat"]["score"],
        "chat_macro_f1": test_sets["chat"]["macro_f1"],
        "chat_exact": test_sets["chat"]["exact"],
        "ece": test_sets["chat"]["ece"],
    }
