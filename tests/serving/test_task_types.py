"""What the running servers answer where a text may have several labels, or entities."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reviewloop.task_types import TASK_TYPES
from reviewloop.text_keys import content_key
from serving.review.outbox import Outbox
from tests.serving.conftest import Serving
from tests.serving.processes import MODEL, Server, predictor, running, transformer
from tests.tiny_model import ENTITY_WORDS, LABEL_THRESHOLDS, LABELS, WORDS, write_tiny_model

SEVERAL, ENTITIES = "multi-label-classification", "token-classification"
THRESHOLD = 0.95
"""The tiny models' predictions lie on both sides of it."""

MARKER = "xylophone7531"
"""Goes into every text of this module; no log may ever hold it."""


class TaskServers:
    """One predictor, which takes up a model of each task type in turn, and a transformer for each."""

    def __init__(self, directory: Path) -> None:
        self._current = directory / "current"
        self._models = {
            task: write_tiny_model(directory / task, threshold=THRESHOLD, task=task) for task in (SEVERAL, ENTITIES)
        }
        self.predictor = predictor(self._current, directory / "predictor.log")
        self._outboxes = {task: f"sqlite:///{directory / task}.db" for task in self._models}
        self._transformers = {task: self._transformer(task, directory / f"{task}.log") for task in self._models}
        self.all = (*self._transformers.values(), self.predictor)

    def serve(self, task: str) -> Serving:
        """The servers, once the model of this task type answers."""
        self._current.unlink(missing_ok=True)
        self._current.symlink_to(self._models[task])
        assert self.predictor.post(f"/v2/repository/models/{MODEL}/load", b"").status_code == 200
        return Serving(self.predictor, self._transformers[task], self._outboxes[task])

    def _transformer(self, task: str, log: Path) -> Server:
        outbox = ("--outbox_url", self._outboxes[task], "--audit_rate", "1")
        return transformer(self.predictor.url, log, "--task_type", task, *outbox)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskServers]:
    servers = TaskServers(tmp_path_factory.mktemp("task-types"))
    with running(*servers.all):
        for server in servers.all:
            server.wait_until("/v2/health/live")
        yield servers
    for server in servers.all:
        assert MARKER not in server.log
        assert "Traceback" not in server.log


def some_texts(count: int, salt: str) -> list[str]:
    return [f"{MARKER} ü🙂 {' '.join(WORDS[i % 7 : i % 7 + i])} {salt} {i}" for i in range(count)]


def entities_of(text: str) -> list[tuple[int, int, str]]:
    """What the tiny model must find in ``text``."""
    places = []
    start = 0
    for word in text.split(" "):
        if word in ENTITY_WORDS:
            places.append((start, start + len(word), ENTITY_WORDS[word]))
        start += len(word) + 1
    return places


def found(prediction: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in prediction["entities"]]


def outputs(server: Server, texts: list[str]) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    response = server.post_v2({"inputs": [tensor]})
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


@pytest.mark.parametrize("task", [SEVERAL, ENTITIES])
def test_predictor_and_transformer_answer_the_same_in_v1_and_v2(servers: TaskServers, task: str) -> None:
    serving = servers.serve(task)
    texts = some_texts(30, "same")
    fields = {*TASK_TYPES[task].answer_fields, "score", "model_version"}
    answers = serving.predictor.predict(*texts)
    for server, more in ((serving.predictor, {"threshold"}), (serving.transformer, {"review"})):
        predictions = server.predict(*texts)
        assert all(prediction.keys() == fields | more for prediction in predictions)
        tensors = outputs(server, texts)
        named = server.get(f"/v2/models/{MODEL}").json()["outputs"]
        assert [tensors[output["name"]]["datatype"] for output in named] == [output["datatype"] for output in named]
        assert tensors["model_version"]["data"] == ["v0001"] * 30
        for number, (one, two) in enumerate(zip(answers, predictions, strict=True)):
            if task == ENTITIES:
                assert two["score"] == pytest.approx(one["score"], abs=1e-2)
                assert tensors["score"]["data"][number] == pytest.approx(one["score"], abs=1e-2)
                assert found(one) == found(two) == found({"entities": json.loads(tensors["entities"]["data"][number])})
            else:
                row = tensors["probabilities"]["data"][3 * number : 3 * number + 3]
                assert list(one["probabilities"].values()) == pytest.approx(row, abs=1e-2)
                assert list(two["probabilities"].values()) == pytest.approx(row, abs=1e-2)
                says = tensors["predicted"]["data"][3 * number : 3 * number + 3]
                assert says == [p >= limit for p, limit in zip(row, LABEL_THRESHOLDS, strict=True)]


def test_a_text_has_the_labels_whose_probability_reaches_their_threshold(servers: TaskServers) -> None:
    predictions = servers.serve(SEVERAL).transformer.predict(*some_texts(40, "several"))
    for prediction in predictions:
        probabilities = prediction["probabilities"]
        assert list(probabilities) == list(LABELS)
        limits = zip(LABELS, LABEL_THRESHOLDS, strict=True)
        assert prediction["labels"] == [label for label, limit in limits if probabilities[label] >= limit]
        sure = [p if label in prediction["labels"] else 1 - p for label, p in probabilities.items()]
        assert prediction["score"] == pytest.approx(min(sure))
    assert {len(prediction["labels"]) for prediction in predictions} >= {0, 1, 2}


def test_entities_are_where_they_stand_in_the_text(servers: TaskServers) -> None:
    texts = some_texts(40, "entities")
    for text, prediction in zip(texts, servers.serve(ENTITIES).transformer.predict(*texts), strict=True):
        assert found(prediction) == entities_of(text)
        for entity in prediction["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]]
            assert prediction["score"] <= entity["score"] <= 1.0


def test_a_text_much_longer_than_the_model_reads_is_answered_whole(servers: TaskServers) -> None:
    serving = servers.serve(ENTITIES)
    words = [WORDS[i * i % 41] for i in range(3000)]
    long = " ".join([MARKER, *words, "not", "great"])
    texts = [*some_texts(20, "beside"), long, *some_texts(20, "behind")]
    alone = serving.predictor.predict(long)[0]
    beside = serving.predictor.predict(*texts)[20]
    routed = serving.transformer.predict(*texts)[20]
    assert alone["entities"][-1]["end"] == len(long)
    for prediction in (alone, beside, routed):
        assert found(prediction) == entities_of(long)
        assert prediction["score"] == pytest.approx(alone["score"], abs=1e-2)
        scores = [entity["score"] for entity in prediction["entities"]]
        assert scores == pytest.approx([entity["score"] for entity in alone["entities"]], abs=1e-2)


def test_a_large_request_of_long_texts_is_not_shed_for_its_own_sake(servers: TaskServers) -> None:
    texts = [f"{MARKER} {number} {'this film is not bad ' * 2200}okay" for number in range(20)]
    for text, prediction in zip(texts, servers.serve(ENTITIES).transformer.predict(*texts), strict=True):
        assert found(prediction) == [(len(text) - 4, len(text), "neutral")]


@pytest.mark.parametrize("task", [SEVERAL, ENTITIES])
def test_the_outbox_takes_the_whole_answer(servers: TaskServers, task: str) -> None:
    serving = servers.serve(task)
    texts = some_texts(40, "outbox")
    predictions = serving.transformer.predict(*texts)
    outbox = Outbox(serving.outbox_url)
    items = {item.key: item for item in outbox.claim(10_000)}
    outbox.close()
    reasons = set()
    for text, prediction in zip(texts, predictions, strict=True):
        item = items[content_key(text)]
        assert prediction["review"] == {"routed": True, "reason": item.reason, "key": item.key}
        assert item.prediction == {name: prediction[name] for name in TASK_TYPES[task].answer_fields}
        assert (item.text, item.confidence) == (text, prediction["score"])
        assert (item.reason == "low_confidence") == (prediction["score"] < THRESHOLD)
        reasons.add(item.reason)
    assert "low_confidence" in reasons


@pytest.mark.parametrize("task", [SEVERAL, ENTITIES])
def test_every_label_that_a_prediction_holds_is_counted(servers: TaskServers, task: str) -> None:
    front = servers.serve(task).transformer

    def counts() -> Counter[str]:
        name = "reviewloop_predictions_total"
        return Counter({label: front.metric(name, label=label, model_version="v0001") for label in (*LABELS, "none")})

    before = counts()
    held = []
    for prediction in front.predict(*some_texts(40, "counted")):
        labels = prediction["labels"] if task == SEVERAL else [label for _, _, label in found(prediction)]
        held += labels or ["none"]
    assert counts() - before == Counter(held)
    assert Counter(held)["none"] > 0


def test_a_transformer_for_another_task_type_says_so(servers: TaskServers) -> None:
    front = servers.serve(SEVERAL).transformer
    servers.serve(ENTITIES)
    response = front.post_v1({"instances": [MARKER]})
    assert response.status_code == 502
    assert response.json() == {
        "error": "The predictor's model does token-classification, but this transformer was started for "
        "multi-label-classification. Start it with --task_type token-classification instead."
    }
