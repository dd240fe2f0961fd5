"""Challenger against champion, with real models and a real registry."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.evaluate.evaluation import EvaluationResult, write_evaluation
from components.evaluate.metrics import roc
from components.evaluate.report import render_html, render_markdown
from components.finetune.train import finetune_model
from reviewloop import dataset
from reviewloop.dataset import ReviewedTraffic
from reviewloop.errors import ModelLoadError
from reviewloop.inference import TextModel
from reviewloop.records import Label
from reviewloop.registry import Registry
from reviewloop.spec import ReviewSpec, TrainingSpec
from reviewloop.task_types import TaskType, task_type
from tests.components.conftest import Toy
from tests.components.evaluations import PROBES, evaluate, register
from tests.components.toy_task import MULTI, SINGLE, TOKENS, write_toy_dataset
from tests.tiny_model import LABELS

each_task = pytest.mark.parametrize("task", [SINGLE, MULTI, TOKENS], ids=lambda task: task.name)


def make_champion(
    data: Path, model: Path, registry_uri: str, directory: Path, task: TaskType = SINGLE
) -> EvaluationResult:
    """Evaluate and register the model, and let it be the champion."""
    result = evaluate(data, model, registry_uri, task=task)
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


@pytest.mark.parametrize("task", [MULTI, TOKENS], ids=lambda task: task.name)
def test_challenger_and_champion_are_compared_by_the_metric_of_their_task(
    toy: Callable[[TaskType], Toy], tmp_path: Path, task: TaskType
) -> None:
    this = toy(task)
    for name, champion, challenger in (("better", this.untaught, this.model), ("worse", this.model, this.untaught)):
        directory = tmp_path / name
        directory.mkdir()
        make_champion(this.dataset, champion, (directory / "registry").as_uri(), directory, task)
        result = evaluate(this.dataset, challenger, (directory / "registry").as_uri(), task=task)
        assert result.verdict == ("promoted" if name == "better" else "refused")
        assert f"On toy the {task.metric} changes by" in result.document["reasons"][0]
        measured = result.document["test_sets"]["toy"]
        gain = measured["challenger"]["score"] - measured["champion"]["score"]
        assert measured["difference"]["delta"] == pytest.approx(gain)
        assert abs(gain) > 0.1
        assert measured["difference"]["low"] < gain < measured["difference"]["high"]
        assert result.scalars()["toy_score"] == measured["challenger"]["score"]
        assert (result.document["task"], result.document["metric"]) == (task.name, task.metric)
        assert json.loads(json.dumps(result.document, allow_nan=False)) == result.document


@each_task
def test_a_champion_of_another_task_type_is_a_sentence(
    toy: Callable[[TaskType], Toy], tmp_path: Path, task: TaskType
) -> None:
    other = MULTI if task is SINGLE else SINGLE
    registry_uri = (tmp_path / "registry").as_uri()
    make_champion(toy(other).dataset, toy(other).untaught, registry_uri, tmp_path, other)
    with pytest.raises(
        ModelLoadError, match=f"champion v0001 does {other.name}, and task.type is {task.name}: they cannot"
    ):
        evaluate(toy(task).dataset, toy(task).untaught, registry_uri, task=task)


def test_the_same_model_again_is_refused(toy_dataset: Path, toy_model: Path, tmp_path: Path) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    make_champion(toy_dataset, toy_model, registry_uri, tmp_path)
    again = evaluate(toy_dataset, toy_model, registry_uri)
    assert again.verdict == "refused"
    assert again.document["test_sets"]["toy"]["challenger"] == again.document["test_sets"]["toy"]["champion"]
    assert again.document["probes"][0]["challenger"] == again.document["probes"][0]["champion"]


def test_the_document_holds_what_the_model_really_answers(toy_dataset: Path, toy_model: Path, tmp_path: Path) -> None:
    result = evaluate(toy_dataset, toy_model, tmp_path.as_uri())
    model = TextModel(toy_model)
    examples = dataset.read_test_set(toy_dataset, "toy")
    predictions = model.predict([e.text for e in examples])
    right = [p.answer["label"] == e.label for p, e in zip(predictions, examples, strict=True)]
    assert result.roc == roc(SINGLE, [e.label for e in examples], predictions)
    measured = result.document["test_sets"]["toy"]["challenger"]
    assert measured["score"] == measured["exact"] == pytest.approx(sum(right) / 90)
    assert measured["confusion"]["names"] == list(LABELS)
    assert sum(map(sum, measured["confusion"]["counts"])) == measured["size"] == 90
    assert set(result.document["test_sets"]) == {"toy", "other"}
    first_probe = result.document["probes"][0]
    assert first_probe["text"] == PROBES[0]
    (prediction,) = model.predict([PROBES[0]])
    assert first_probe["challenger"] == prediction.answer | {"score": prediction.score}
    assert prediction.answer["label"] == "positive"
    assert result.document["temperature"] == model.settings.temperature
    assert result.document["threshold"] == model.settings.threshold


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
    assert {"toy_score", "toy_macro_f1", "toy_exact", "toy_ece", "other_score"} <= set(first.scalars())
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


@each_task
def test_a_champion_of_other_labels_is_compared_on_those_of_today(
    toy: Callable[[TaskType], Toy], tiny_encoder: Path, tmp_path: Path, task: TaskType
) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    champion = make_champion(toy(task).dataset, toy(task).model, registry_uri, tmp_path, task)
    labels = ("mixed", *LABELS[::-1])
    today = task_type(task.name, labels)
    training = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)
    finetune_model(toy(task).dataset, str(tiny_encoder), today, training, ReviewSpec(), tmp_path / "challenger")
    result = evaluate(toy(task).dataset, tmp_path / "challenger", registry_uri, task=today)
    before, now = (champion.document["test_sets"]["toy"]["challenger"], result.document["test_sets"]["toy"]["champion"])
    assert now["score"] == before["score"]
    assert {label: now["classes"][label] for label in LABELS} == before["classes"]
    assert now["classes"]["mixed"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert result.document["probes"][0]["champion"] == champion.document["probes"][0]["challenger"]
    assert "mixed" in render_html(result.document)


@each_task
def test_what_a_champion_says_that_is_no_label_of_today_is_wrong(
    toy: Callable[[TaskType], Toy], tiny_encoder: Path, tmp_path: Path, task: TaskType
) -> None:
    registry_uri = (tmp_path / "registry").as_uri()
    champion = make_champion(toy(task).dataset, toy(task).model, registry_uri, tmp_path, task)
    # Since then positive was done away with.
    today = task_type(task.name, LABELS[:2])
    data = shutil.copytree(toy(task).dataset, tmp_path / "data")
    for split in ("train", "validation", "test-toy", "test-other"):
        examples = dataset.read_split(data, split)
        dataset.write_split(data, split, [replace(e, label=without_positive(e.label)) for e in examples])
    training = TrainingSpec(epochs=0.01, batch_size=8, max_length=32)
    finetune_model(data, str(tiny_encoder), today, training, ReviewSpec(), tmp_path / "challenger")
    result = evaluate(data, tmp_path / "challenger", registry_uri, task=today)
    before, now = (champion.document["test_sets"]["toy"]["challenger"], result.document["test_sets"]["toy"]["champion"])
    assert now["score"] < before["score"]
    assert now["exact"] < before["exact"]
    assert list(now["classes"]) == list(LABELS[:2])
    assert now["classes"]["negative"] == before["classes"]["negative"]
    if task is not MULTI:
        assert "positive" in now["confusion"]["names"]
    html = render_html(result.document)
    assert "None" not in html


def without_positive(label: Label) -> Label:
    """What is left of the label; where there must be one, it is neutral."""
    if isinstance(label, str):
        return "neutral" if label == "positive" else label
    return [part for part in label if part != "positive" and (isinstance(part, str) or part["label"] != "positive")]


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
    accuracy = result.document["test_sets"]["toy"]["challenger"]["score"]
    assert f"| toy | 90 | none | {100 * accuracy:.1f}% |" in summary
