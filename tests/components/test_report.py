"""The HTML report: complete, self-contained, and inert whatever the texts are."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from components.evaluate.report import render_html
from reviewloop import dataset
from reviewloop.dataset import ReviewedTraffic
from reviewloop.registry import Registry
from tests.components.evaluations import evaluate, register
from tests.components.toy_task import write_toy_dataset

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
        assert f"{100 * before['accuracy']:.1f}% {100 * now['accuracy']:.1f}% {change} " in text
        assert f"{before['macro_f1']:.3f} → {now['macro_f1']:.3f}" in text
        assert f"{before['ece']:.3f} → {now['ece']:.3f}" in text
    assert "Confusion before (v0001)" in text
    assert "compared with v0001" in text
    probe = document["probes"][0]
    assert f"{probe['champion']['positive']:.3f} → {probe['challenger']['positive']:.3f}" in text


def test_every_count_of_a_confusion_matrix_is_in_its_cell(later: tuple[str, dict]) -> None:
    html, document = later
    cells = [int(count) for count in re.findall(r'of the row">(\d+)</td>', html)]
    expected = [
        count
        for measured in document["test_sets"].values()
        for model in ("champion", "challenger")
        for row in measured[model]["confusion"]
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


def test_the_lineage_is_told(later: tuple[str, dict]) -> None:
    html, document = later
    text = Page(html).text
    assert document["lineage"]["dataset_hash"] in text
    assert "v0001" in text
