"""The evaluate step: challenger and champion on the test sets -> metrics, verdict and report."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.live_accuracy import estimate_live_accuracy
from components.evaluate.metrics import TestSetMetrics, measure, micro_roc_curve
from components.evaluate.promotion import Decision, decide, paired_bootstrap
from reviewloop import __version__
from reviewloop.dataset import read_reviewed_traffic, read_summary, read_test_set, test_set_names
from reviewloop.inference import TextClassifier
from reviewloop.records import Example
from reviewloop.registry import Lineage, Registry, Verdict
from reviewloop.spec import PromotionSpec

CODE_VERSION_VARIABLE = "REVIEWLOOP_CODE_VERSION"
IMAGE_VARIABLE = "REVIEWLOOP_IMAGE"

_FIRST = Decision("promoted", ("It is the first version: there is no champion to compare it with.",))


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The verdict, everything measured as one JSON-ready document, and what the dashboard draws."""

    verdict: Verdict
    document: dict[str, Any]
    primary: TestSetMetrics
    roc: tuple[list[float], list[float], list[float]]

    def scalars(self) -> dict[str, float]:
        """The figures worth comparing between runs."""
        figures = {}
        for name, measured in self.document["test_sets"].items():
            for figure in ("accuracy", "macro_f1", "ece"):
                figures[f"{name}_{figure}"] = measured["challenger"][figure]
            for figure, value in (measured["difference"] or {}).items():
                figures[f"{name}_difference_{figure}"] = value
        if self.document["live"]:
            figures["live_accuracy"] = self.document["live"]["accuracy"]
        return figures


@dataclass(frozen=True, slots=True)
class _Answers:
    metrics: dict[str, TestSetMetrics]
    correct: dict[str, NDArray[np.bool_]]
    probes: list[dict[str, float]]
    primary_roc: tuple[list[float], list[float], list[float]]


def evaluate_model(
    dataset: Path,
    model: Path,
    loop_name: str,
    registry_uri: str,
    base_model: str,
    labels: tuple[str, ...],
    promotion: PromotionSpec,
    primary: str,
    probes: tuple[str, ...],
    seed: int,
) -> EvaluationResult:
    """Measure the model in ``model``, and the registry's champion if there is one, on every test set.

    ``primary`` names the test set on which the challenger must be better.
    """
    tests = {name: read_test_set(dataset, name) for name in test_set_names(dataset)}
    classifier = TextClassifier(model)
    challenger = _answer(classifier, tests, labels, primary, probes)
    registry = Registry(registry_uri)
    champion_version = registry.champion()
    champion, decision, differences = None, _FIRST, {}
    if champion_version:
        with tempfile.TemporaryDirectory() as directory:
            registry.fetch_model(champion_version, Path(directory))
            champion = _answer(TextClassifier(Path(directory)), tests, labels, primary, probes)
        differences = {
            name: paired_bootstrap(champion.correct[name], challenger.correct[name], promotion.confidence, seed)
            for name in tests
        }
        decision = decide(primary, differences, champion.metrics, challenger.metrics, promotion)
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
        "labels": list(labels),
        "temperature": classifier.settings.temperature,
        "threshold": classifier.settings.threshold,
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


def _answer(
    classifier: TextClassifier,
    tests: dict[str, list[Example]],
    labels: tuple[str, ...],
    primary: str,
    probes: tuple[str, ...],
) -> _Answers:
    metrics, correct = {}, {}
    roc: tuple[list[float], list[float], list[float]] = ([], [], [])
    for name, examples in tests.items():
        probabilities = _probabilities(classifier, [e.text for e in examples], labels)
        targets = np.array([labels.index(e.label) for e in examples])
        metrics[name] = measure(probabilities, targets, labels)
        correct[name] = probabilities.argmax(axis=1) == targets
        if name == primary:
            roc = micro_roc_curve(probabilities, targets)
    answers = [
        {label: float(p) for label, p in zip(labels, row, strict=True)}
        for row in _probabilities(classifier, probes, labels)
    ]
    return _Answers(metrics, correct, answers, roc)


def _probabilities(classifier: TextClassifier, texts: Sequence[str], labels: tuple[str, ...]) -> NDArray[np.float32]:
    """In the order of ``labels``; a champion trained on other labels gives none to those it does not know."""
    known = classifier.settings.labels
    own = classifier.probabilities(texts)
    aligned = np.zeros((len(texts), len(labels)), dtype=np.float32)
    for column, label in enumerate(labels):
        if label in known:
            aligned[:, column] = own[:, known.index(label)]
    return aligned
