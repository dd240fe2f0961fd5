"""The evaluate step: challenger and champion on the test sets -> metrics, verdict and report."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.evaluate.live_accuracy import estimate_live_accuracy
from components.evaluate.metrics import TestSetMetrics, measure, roc
from components.evaluate.promotion import Decision, decide, paired_bootstrap
from components.image import IMAGE_VARIABLE
from reviewloop import __version__
from reviewloop.dataset import read_reviewed_traffic, read_summary, read_test_set, test_set_names
from reviewloop.errors import ModelLoadError
from reviewloop.inference import InferenceSettings, TextModel
from reviewloop.records import Example
from reviewloop.registry import Lineage, Registry, Verdict
from reviewloop.spec import PromotionSpec
from reviewloop.task_types import TaskType
from reviewloop.task_types.base import Counts

CODE_VERSION_VARIABLE = "REVIEWLOOP_CODE_VERSION"

_FIRST = Decision("promoted", ("It is the first version: there is no champion to compare it with.",))


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The verdict, everything measured as one JSON-ready document, and what the dashboard draws."""

    verdict: Verdict
    document: dict[str, Any]
    primary: TestSetMetrics
    roc: tuple[list[float], list[float], list[float]] | None

    def scalars(self) -> dict[str, float]:
        """The figures worth comparing between runs."""
        figures = {}
        for name, measured in self.document["test_sets"].items():
            for figure in ("score", "macro_f1", "exact", "ece"):
                figures[f"{name}_{figure}"] = measured["challenger"][figure]
            for figure, value in (measured["difference"] or {}).items():
                figures[f"{name}_difference_{figure}"] = value
        if self.document["live"]:
            figures["live_accuracy"] = self.document["live"]["accuracy"]
        return figures


@dataclass(frozen=True, slots=True)
class _Measured:
    metrics: dict[str, TestSetMetrics]
    counts: dict[str, list[Counts]]
    probes: list[dict[str, Any]]
    primary_roc: tuple[list[float], list[float], list[float]] | None


def evaluate_model(
    dataset: Path,
    model: Path,
    loop_name: str,
    registry_uri: str,
    base_model: str,
    task: TaskType,
    promotion: PromotionSpec,
    primary: str,
    probes: tuple[str, ...],
    seed: int,
) -> EvaluationResult:
    """Measure the model in ``model``, and the registry's champion if there is one, on every test set.

    ``primary`` names the test set on which the challenger must be better.

    Raises:
        ModelLoadError: the champion is of another task type, or one of both cannot be loaded.
    """
    tests = {name: read_test_set(dataset, name) for name in test_set_names(dataset)}
    settings = InferenceSettings.load(model)
    challenger = _measure(TextModel(model), tests, task, primary, probes)
    registry = Registry(registry_uri)
    champion_version = registry.champion()
    champion, decision, differences = None, _FIRST, {}
    if champion_version:
        with tempfile.TemporaryDirectory() as directory:
            registry.fetch_model(champion_version, Path(directory))
            served = TextModel(Path(directory))
            if served.task.name != task.name:
                raise ModelLoadError(
                    f"The champion {champion_version} does {served.task.name}, and task.type is {task.name}: they "
                    "cannot be compared. Give a loop of another task type a registry of its own."
                )
            champion = _measure(served, tests, task, primary, probes)
        differences = {
            name: paired_bootstrap(champion.counts[name], challenger.counts[name], promotion.confidence, seed)
            for name in tests
        }
        decision = decide(primary, differences, champion.metrics, challenger.metrics, promotion, task.metric)
    live = estimate_live_accuracy(read_reviewed_traffic(dataset), champion_version or "", seed)
    data = read_summary(dataset)
    lineage = Lineage(
        dataset_hash=data["dataset_hash"],
        annotation_snapshot=data["annotation_snapshot"],
        annotations=data["reviews"]["annotations"],
        base_model=base_model,
        parent=champion_version,
        code_version=os.environ.get(CODE_VERSION_VARIABLE, __version__),
        image=os.environ.get(IMAGE_VARIABLE, "none (run without a container)"),
        seed=seed,
    )
    document = {
        "name": loop_name,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "primary": primary,
        "champion": champion_version,
        "task": task.name,
        "metric": task.metric,
        "labels": list(task.labels),
        "temperature": settings.temperature,
        "threshold": settings.threshold,
        "test_sets": {
            name: {
                "challenger": asdict(challenger.metrics[name]),
                "champion": asdict(champion.metrics[name]) if champion else None,
                "difference": asdict(differences[name]) if champion else None,
            }
            for name in tests
        },
        "live": asdict(live) if live else None,
        "probes": [
            {
                "text": text,
                "challenger": challenger.probes[index],
                "champion": champion.probes[index] if champion else None,
            }
            for index, text in enumerate(probes)
        ],
        "dataset": data,
        "lineage": lineage.model_dump(),
    }
    return EvaluationResult(decision.verdict, document, challenger.metrics[primary], challenger.primary_roc)


def write_evaluation(result: EvaluationResult, path: Path) -> None:
    """Write the document that the register step reads."""
    path.write_text(json.dumps(result.document, indent=2) + "\n", encoding="utf-8")


def _measure(
    model: TextModel, tests: dict[str, list[Example]], task: TaskType, primary: str, probes: tuple[str, ...]
) -> _Measured:
    """Against the loop's labels; a label that only an earlier model's loop had is a wrong answer."""
    metrics, counts = {}, {}
    curve = None
    for name, examples in tests.items():
        truths = [e.label for e in examples]
        predictions = model.predict([e.text for e in examples])
        metrics[name] = measure(task, truths, predictions)
        counts[name] = [task.counts(t, task.answered(p.answer)) for t, p in zip(truths, predictions, strict=True)]
        if name == primary:
            curve = roc(task, truths, predictions)
    return _Measured(metrics, counts, [p.answer | {"score": p.score} for p in model.predict(probes)], curve)
