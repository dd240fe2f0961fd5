"""Registered versions without a model worth loading, for what looks at their evidence only."""

from pathlib import Path
from typing import Any

from reviewloop.registry import Registry

PROBES = ("it is good", "it is bad")


def answer(positive: float) -> dict[str, Any]:
    """What a model that is so sure of a good text answers to every text."""
    return {"label": "positive", "score": positive, "probabilities": {"positive": positive, "negative": 1 - positive}}


def evaluation(parent: str | None, positive: float = 0.9, verdict: str = "promoted") -> dict[str, Any]:
    """The evidence on a version compared with ``parent``."""
    challenger = {"size": 90, "score": 0.8, "macro_f1": 0.79, "ece": 0.03, "confusion": [[1, 0], [0, 1]]}
    return {
        "verdict": verdict,
        "reasons": ["It is better."] if verdict == "promoted" else ["It is worse."],
        "metric": "accuracy",
        "primary": "toy",
        "test_sets": {
            "toy": {
                "challenger": challenger,
                "champion": challenger if parent else None,
                "difference": {"delta": 0.1, "low": 0.05, "high": 0.15} if parent else None,
            }
        },
        "probes": [{"text": text, "challenger": answer(positive), "champion": None} for text in PROBES],
        "lineage": {
            "dataset_hash": "d" * 64,
            "annotation_snapshot": None,
            "annotations": 120,
            "base_model": "tiny",
            "parent": parent,
            "code_version": "test",
            "image": "none",
            "seed": 7,
        },
    }


def register_version(registry: Registry, directory: Path, **about: Any) -> str:
    """Register the next version with this evidence; its number."""
    model = directory / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    report = directory / "report.html"
    report.write_text("<p>report</p>", encoding="utf-8")
    evidence = evaluation(**{"parent": registry.champion(), **about})
    return registry.register(registry.claim_version(), model, report, evidence).version
