"""The HTML report: complete, self-contained, and inert whatever the texts are."""

import re
from collections.abc import Callable, Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from components.evaluate.report import render_html, render_markdown
from reviewloop import dataset
from reviewloop.dataset import ReviewedTraffic
from reviewloop.registry import Registry
from reviewloop.task_types import TaskType
from tests.components.conftest import Toy
from tests.components.evaluations import evaluate, register
from tests.components.toy_task import MULTI, SINGLE, TOKENS, write_toy_dataset

VOID = {"meta", "br", "img", "link", "input"}
HOSTILE = "<script>alert(\"1\")</script><img src=http://evil.example/x onerror=alert(2)>{{ 7 * 7 }} & 'quoted'"


class Page(HTMLParser):
    """What a browser would find in the page; fails if an element is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def first_report(toy_dataset: Path, untaught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a first version."""
    registry_uri = tmp_path_factory.mktemp("registry").as_uri()
    return render_html(evaluate(toy_dataset, untaught_model, registry_uri, probes=(HOSTILE,)).document)


@pytest.fixture(scope="module")
def later(toy_model: Path, untaught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """The report of a challenger to a champion, with reviewed traffic, and the document it shows."""
    directory = tmp_path_factory.mktemp("later")
    registry_uri = (directory / "registry").as_uri()
    data = write_toy_dataset(directory / "data")
    register(evaluate(data, untaught_model, registry_uri), untaught_model, registry_uri, directory)
    Registry(registry_uri).set_champion("v0001")
    rows = [
        ReviewedTraffic("positive", "positive" if reason == "audit" else "negative", reason, weight, "v0001")
        for reason, weight in (("low_confidence", 1.0), ("audit", 30.0))
    ]
    dataset.write_reviewed_traffic(data, rows)
    counts = dataset.read_summary(data)
    counts["reviews"] |= {
        "tasks": 12, "answered": 10, "annotations": 30, "new_annotations": 25, "ties": 2, "agreement": 0.875,
        "by_reason": {"low_confidence": 9, "audit": 3},
    }  # fmt: skip
    counts["problems"] = {
        "cancelled annotation": {"count": 1, "where": ["task 4 annotation 7"]},
        "unusable answer": {"count": 3, "where": ["task 5 annotation 8: unknown label '<b>'", "task 6 annotation 9"]},
    }
    counts["machine_labels"] = {"accepted": 40, "trained_on": 30, "checked": 8, "errors": 2}
    dataset.write_summary(data, counts)
    document = evaluate(data, toy_model, registry_uri).document
    return render_html(document), document


def test_the_page_needs_no_network(first_report: str, later: tuple[str, dict]) -> None:
    for html in (first_report, later[0]):
        page = Page(html)
        assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
        assert not [a for a in page.attributes if a[0] in ("src", "href", "xlink:href", "action", "srcset")]
        assert "@import" not in html
        assert "url(" not in html


def test_a_text_that_looks_like_html_is_shown_and_not_run(first_report: str) -> None:
    page = Page(first_report)
    assert HOSTILE in page.text
    assert "<script" not in first_report
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_first_version_is_shown_without_a_champion(first_report: str) -> None:
    text = " ".join(Page(first_report).text.split())
    assert "promoted" in text
    assert "It is the first version: there is no champion to compare it with." in text
    assert "Confusion now" in text
    assert "Confusion before" not in text
    assert "None" not in text
    assert "nan" not in text


def test_before_and_after_are_shown_side_by_side(later: tuple[str, dict]) -> None:
    html, document = later
    text = " ".join(Page(html).text.split())
    for measured in document["test_sets"].values():
        before, now = measured["champion"], measured["challenger"]
        change = f"{100 * measured['difference']['delta']:+.1f}"
        assert f"{100 * before['score']:.1f}% {100 * now['score']:.1f}% {change} " in text
        assert f"{before['macro_f1']:.3f} → {now['macro_f1']:.3f}" in text
        assert f"{before['ece']:.3f} → {now['ece']:.3f}" in text
    assert "Confusion before (v0001)" in text
    assert "compared with v0001" in text
    probe = document["probes"][0]
    probabilities = [probe[model]["probabilities"]["positive"] for model in ("champion", "challenger")]
    assert f"{probabilities[0]:.3f} → {probabilities[1]:.3f}" in text


def test_every_count_of_a_confusion_matrix_is_in_its_cell(later: tuple[str, dict]) -> None:
    html, document = later
    cells = [int(count) for count in re.findall(r'of the row">(\d+)</td>', html)]
    expected = [
        count
        for measured in document["test_sets"].values()
        for model in ("champion", "challenger")
        for row in measured[model]["confusion"]["counts"]
        for count in row
    ]
    assert cells == expected


def test_every_reliability_bin_is_a_dot(later: tuple[str, dict]) -> None:
    html, document = later
    bins = [
        len(measured[model]["reliability"])
        for measured in document["test_sets"].values()
        for model in ("champion", "challenger")
    ]
    assert Page(html).tags.count("circle") == sum(bins)


def test_what_people_reviewed_is_told(later: tuple[str, dict]) -> None:
    html, document = later
    text = " ".join(Page(html).text.split())
    assert "12 tasks: 9 low confidence, 3 audit" in text
    assert "30 annotations on 10 tasks, 25 new since the last training" in text
    assert "88% mean agreement with the majority; 2 ties went to the first answer" in text
    assert f"{100 * document['live']['accuracy']:.1f}% (95% interval" in text
    assert "stand for about 31 texts" in text


def test_what_could_not_be_used_is_told_with_where_it_is(first_report: str, later: tuple[str, dict]) -> None:
    text = " ".join(Page(later[0]).text.split())
    assert "What could not be used" in text
    assert "cancelled annotation 1 task 4 annotation 7 " in text
    # A reader sees that there are more of a kind than places are named.
    assert "unusable answer 3 task 5 annotation 8: unknown label '<b>', task 6 annotation 9, … " in text
    assert "What could not be used" not in first_report


def test_what_machines_labelled_is_told_with_how_often_they_erred(first_report: str, later: tuple[str, dict]) -> None:
    text = " ".join(Page(later[0]).text.split())
    assert "40 accepted, 30 of them trained on." in text
    assert "People checked 8 others that were as sure: 2 were wrong (25.0%)." in text
    assert "Machine labels" not in first_report


class TaskReport:
    """The reports of a first version and of a challenger to it, of one task type."""

    def __init__(self, toy: Toy, directory: Path) -> None:
        registry_uri = (directory / "registry").as_uri()
        probes = ("the film was very good and bad", HOSTILE)
        first = evaluate(toy.dataset, toy.untaught, registry_uri, task=toy.task, probes=probes)
        register(first, toy.untaught, registry_uri, directory)
        Registry(registry_uri).set_champion("v0001")
        self.task = toy.task
        self.documents = [
            first.document,
            evaluate(toy.dataset, toy.model, registry_uri, task=toy.task, probes=probes).document,
        ]
        self.pages = [render_html(document) for document in self.documents]
        self.texts = [" ".join(Page(page).text.split()) for page in self.pages]


@pytest.fixture(scope="module", params=[SINGLE, MULTI, TOKENS], ids=lambda task: task.name)
def task_report(
    request: pytest.FixtureRequest,
    toy: Callable[[TaskType], Toy],
    tmp_path_factory: pytest.TempPathFactory,
) -> TaskReport:
    """The reports of each task type."""
    return TaskReport(toy(request.param), tmp_path_factory.mktemp("task-report"))


def texts_with_entities(page: str) -> list[str]:
    """The probes as a reader of the page sees them, but for the labels of the entities."""
    paragraphs = re.findall(r"confidence [0-9.]+</h3><p>(.*?)</p>", page, re.DOTALL)
    return [unescape(re.sub(r"<small>.*?</small>|</?mark>", "", paragraph)) for paragraph in paragraphs]


def test_the_report_of_every_task_type_names_its_metric_and_says_no_more_than_it_knows(
    task_report: TaskReport,
) -> None:
    metric = task_report.task.metric
    for document, page, text in zip(task_report.documents, task_report.pages, task_report.texts, strict=True):
        assert f"<h2>{metric[0].upper()}{metric[1:]}</h2>" in page
        assert f"On toy the {metric} changes by" in text or document["champion"] is None
        for nothing in ("None", "nan", "Undefined", "{'", "{{ e"):
            assert nothing not in text
        assert "<script" not in page
        assert not [name for name, _ in Page(page).attributes if name.startswith("on")]
        if task_report.task is TOKENS:
            shown = [
                probe["text"] for probe in document["probes"] for model in ("champion", "challenger") if probe[model]
            ]
            assert texts_with_entities(page) == shown
        else:
            assert HOSTILE in Page(page).text
        assert ("all right" in text) == (task_report.task is not SINGLE)
        assert ("Confusion" in text) == (task_report.task is not MULTI)
        measured = document["test_sets"]["toy"]["challenger"]
        for label, score in measured["classes"].items():
            assert re.search(rf"{label} {score['support']} {100 * score['precision']:.1f}%", text)
        markdown = render_markdown(document)
        assert f"{metric} now" in markdown
        assert "None" not in markdown


def test_the_report_of_every_task_type_shows_what_the_probes_were_answered(task_report: TaskReport) -> None:
    page, text = task_report.pages[1], task_report.texts[1]
    answer = task_report.documents[1]["probes"][0]["challenger"]
    if task_report.task is TOKENS:
        assert [(e["text"], e["label"]) for e in answer["entities"]] == [("very good", "positive"), ("bad", "negative")]
        for entity in answer["entities"]:
            assert f"<mark>{entity['text']}<small>{entity['label']} {entity['score']:.2f}</small></mark>" in page
        assert f"now, confidence {answer['score']:.3f} the film was very good" in text
    else:
        told = [answer["label"]] if task_report.task is SINGLE else answer["labels"]
        cells = re.findall(r"<td><b>(\w+)</b></td>", page)
        assert cells[: len(told)] == told
        for label, probability in answer["probabilities"].items():
            assert re.search(rf"{label} [0-9.]+ → {probability:.3f}", text)


def test_the_lineage_is_told(later: tuple[str, dict]) -> None:
    html, document = later
    text = Page(html).text
    assert document["lineage"]["dataset_hash"] in text
    assert "v0001" in text
