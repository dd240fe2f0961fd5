"""Evaluate and register models of the toy task as the pipeline's steps would."""

import shutil
from pathlib import Path
from typing import Any

from components.evaluate.evaluation import EvaluationResult, evaluate_model, write_evaluation
from components.evaluate.report import render_html
from components.register.registration import register_model
from reviewloop.registry import VersionManifest
from reviewloop.spec import PromotionSpec
from tests.components.toy_task import SINGLE

PROBES = ("the film was good", "the cable was awful")


def evaluate(data: Path, model: Path, registry_uri: str, **changes: Any) -> EvaluationResult:
    """The verdict on ``model``, decided on the test set ``toy``."""
    arguments: dict[str, Any] = {
        "loop_name": "sentiment",
        "base_model": "tiny",
        "task": SINGLE,
        "promotion": PromotionSpec(),
        "primary": "toy",
        "probes": PROBES,
        "seed": 7,
    }
    return evaluate_model(dataset=data, model=model, registry_uri=registry_uri, **arguments | changes)


def register(result: EvaluationResult, model: Path, registry_uri: str, directory: Path) -> VersionManifest:
    """Register a copy of the model with its evaluation and report."""
    copy = shutil.copytree(model, directory / "model", dirs_exist_ok=True)
    write_evaluation(result, directory / "evaluation.json")
    (directory / "report.html").write_text(render_html(result.document), encoding="utf-8")
    return register_model(copy, directory / "evaluation.json", directory / "report.html", registry_uri)
