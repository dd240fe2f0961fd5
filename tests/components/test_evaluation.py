"""Challenger against champion, with real models and a real registry."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.evaluation import EvaluationResult, write_evaluation
from components.evaluate.metrics import micro_roc_curve
from components.evaluate.report import render_html, render_markdown
from components.finetune.train import finetune_model
from reviewloop import dataset
from reviewloop.dataset import ReviewedTraffic
from reviewloop.inference import TextClassifier
from reviewloop.registry import Registry
from reviewloop.spec import ReviewSpec, TrainingSpec
from tests.components.evaluations import PROBES, evaluate, register
from tests.components.toy_task import write_toy_dataset
from tests.tiny_model import LABELS


def make_champion(data: Path, model: Path, registry_uri: str, directory: Path) -> EvaluationResult:
    """Evaluate and register the model, and let it be the champion."""
    result = evaluate(data, model, registry_uri)
    Registry(registry_uri).set_champion(register(result, model, registry_uri, directory).version)
    return result


def test_the_first_version_is_promoted(toy_dataset: Path, untaught_model: Path, tmp_path: Path) -> None:
    result = evaluate(toy_dataset, untaught_model, tmp_path.as_uri())
    assert result.verdict == "promoted"
    assert result.document["reasons"] == ["It is the first version: there is no champion to compare it with."]
    assert result.document["champion"] is None
    assert result.document["test_sets"]["toy"]["champion"] is None
    assert result.document["lineage"]["parent"] is None


def test_a_better_challenger_is_promoted_and_a_worse_one_refused(
    toy_dataset: Path, toy_model: Path, untaught_model: Path, tmp_path: Path
) -> None:
    better, worse = (tmp_path / name for name in ("better", "worse"))
    for directory, champion in ((better, untaught_model), (worse, toy_model)):
        directory.mkdir()
        make_champion(toy_dataset, champion, (directory / "registry").as_uri(), directory)
    promoted = evaluate(toy_dataset, toy_model, (better / "registry").as_uri())
    refused = evaluate(toy_dataset, untaught_model, (worse / "registry").as_uri())
    assert (promoted.verdict, refused.verdict) == ("promoted", "refused")
    gain = promoted.document["test_sets"]["toy"]["difference"]
    assert gain["delta"] > 0.3
    assert 0 < gain["low"] < gain["delta"] < gain["high"]
    assert any("On toy the accuracy changes by -" in reason for reason in refused.document["reasons"])
    assert any("On other the accuracy falls by" in reason for reason in refused.document["reasons"])
    assert promoted.document["lineage"]["parent"] == promoted.document["champion"] == "v0001"


def test_the_same_model_again_is_refused(toy_dataset: Path, toy_model: Path, tmp_path: Path) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    make_champion(toy_dataset, toy_model, registry_uri, tmp_path)
    again = evaluate(toy_dataset, toy_model, registry_uri)
    assert again.verdict == "refused"
    assert again.document["test_sets"]["toy"]["challenger"] == again.document["test_sets"]["toy"]["champion"]
    assert again.document["probes"][0]["challenger"] == again.document["probes"][0]["champion"]


def test_the_document_holds_what_the_model_really_answers(toy_dataset: Path, toy_model: Path, tmp_path: Path) -> None:
    result = evaluate(toy_dataset, toy_model, tmp_path.as_uri())
    classifier = TextClassifier(toy_model)
    examples = dataset.read_test_set(toy_dataset, "toy")
    right = [
        classifier.prediction(row).label == e.label
        for row, e in zip(classifier.probabilities([e.text for e in examples]), examples, strict=True)
    ]
    targets = np.array([LABELS.index(e.label) for e in examples])
    assert result.roc == micro_roc_curve(classifier.probabilities([e.text for e in examples]), targets)
    measured = result.document["test_sets"]["toy"]["challenger"]
    assert measured["accuracy"] == pytest.approx(sum(right) / 90)
    assert sum(map(sum, measured["confusion"])) == measured["size"] == 90
    assert set(result.document["test_sets"]) == {"toy", "other"}
    first_probe = result.document["probes"][0]
    assert first_probe["text"] == PROBES[0]
    assert max(first_probe["challenger"], key=first_probe["challenger"].get) == "positive"
    assert result.document["temperature"] == classifier.settings.temperature
    assert result.document["threshold"] == classifier.settings.threshold


def test_the_document_is_json_without_nan(
    toy_dataset: Path, toy_model: Path, untaught_model: Path, tmp_path: Path
) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    make_champion(toy_dataset, untaught_model, registry_uri, tmp_path)
    result = evaluate(toy_dataset, toy_model, registry_uri)
    write_evaluation(result, tmp_path / "evaluation.json")
    assert json.loads(json.dumps(result.document, allow_nan=False)) == result.document
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == result.document


def test_the_scalars_are_finite_floats_with_the_difference_once_there_is_one(
    toy_dataset: Path, toy_model: Path, untaught_model: Path, tmp_path: Path
) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    first = make_champion(toy_dataset, untaught_model, registry_uri, tmp_path)
    scalars = evaluate(toy_dataset, toy_model, registry_uri).scalars()
    assert {"toy_accuracy", "toy_macro_f1", "toy_ece", "other_accuracy"} <= set(first.scalars())
    assert "toy_difference_delta" not in first.scalars()
    assert scalars["toy_difference_low"] <= scalars["toy_difference_delta"] <= scalars["toy_difference_high"]
    assert all(type(value) is float and abs(value) <= 1.0 for value in scalars.values())


def test_live_accuracy_is_that_of_the_champion(toy_model: Path, tmp_path: Path) -> None:
    data = write_toy_dataset(tmp_path / "data")
    registry_uri = (tmp_path / "registry").as_uri()
    make_champion(data, toy_model, registry_uri, tmp_path)
    rows = [
        ReviewedTraffic("positive", "positive" if right else "negative", reason, weight, "v0001")
        for reason, weight, right in (("low_confidence", 1.0, False), ("audit", 9.0, True))
    ]
    dataset.write_reviewed_traffic(data, rows)
    result = evaluate(data, toy_model, registry_uri)
    assert result.document["live"]["accuracy"] == pytest.approx(0.9)
    assert result.scalars()["live_accuracy"] == pytest.approx(0.9)


def test_a_champion_of_other_labels_is_compared_on_those_of_today(
    toy_dataset: Path, toy_model: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    champion = make_champion(toy_dataset, toy_model, registry_uri, tmp_path)
    labels = ("mixed", *LABELS[::-1])
    training = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)
    finetune_model(toy_dataset, str(tiny_encoder), labels, training, ReviewSpec(), tmp_path / "challenger")
    result = evaluate(toy_dataset, tmp_path / "challenger", registry_uri, labels=labels)
    before, now = (champion.document["test_sets"]["toy"]["challenger"], result.document["test_sets"]["toy"]["champion"])
    assert now["accuracy"] == before["accuracy"]
    assert {label: now["classes"][label] for label in LABELS} == before["classes"]
    assert result.document["probes"][0]["champion"] == {"mixed": 0.0, **champion.document["probes"][0]["challenger"]}
    assert "mixed" in render_html(result.document)


def test_the_lineage_says_what_the_version_was_made_from(
    toy_dataset: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVIEWLOOP_CODE_VERSION", "abc123")
    lineage = evaluate(toy_dataset, toy_model, tmp_path.as_uri()).document["lineage"]
    assert lineage["dataset_hash"] == dataset.dataset_hash(toy_dataset)
    assert (lineage["base_model"], lineage["code_version"], lineage["seed"]) == ("tiny", "abc123", 7)


def test_the_summary_for_the_dashboard_has_verdict_and_figures(
    toy_dataset: Path, toy_model: Path, tmp_path: Path
) -> None:
    result = evaluate(toy_dataset, toy_model, tmp_path.as_uri())
    summary = render_markdown(result.document)
    assert summary.startswith("# sentiment: promoted\n")
    accuracy = result.document["test_sets"]["toy"]["challenger"]["accuracy"]
    assert f"| toy | 90 | none | {100 * accuracy:.1f}% |" in summary
