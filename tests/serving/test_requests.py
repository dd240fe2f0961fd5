"""What the running servers answer to good and bad requests, over HTTP."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from reviewloop.text_keys import content_key
from serving.protocol import MAX_BODY_BYTES
from serving.review.outbox import Outbox
from tests.serving.conftest import Serving
from tests.serving.processes import MODEL, Server

MARKER = "xylophone7531"
"""Goes into every text of this module; no log may ever hold it."""

WORDS = ("good", "bad", "great", "awful", "movie", "phone", "love", "hate", "works", "broke", "the", "not", "is")
Post = Callable[[Any], httpx.Response]


def some_texts(count: int, salt: str) -> list[str]:
    return [f"{WORDS[i % 13]} {WORDS[i * i % 13]} {WORDS[i // 13 % 13]} {salt} {i} {MARKER}" for i in range(count)]


@pytest.fixture(params=["predictor", "transformer"])
def server(request: pytest.FixtureRequest, serving: Serving) -> Server:
    return getattr(serving, request.param)


def v1(instances: Any) -> dict[str, Any]:
    return {"instances": instances}


def v2(data: Any, **changes: Any) -> dict[str, Any]:
    shape = [len(data)] if isinstance(data, list) else [1]
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": shape, "data": data} | changes]}


def test_v1_and_v2_answer_the_same(serving: Serving) -> None:
    texts = some_texts(40, "same")
    answers = serving.transformer.post_v1(v1([{"text": t, "id": f"n{i}"} for i, t in enumerate(texts)])).json()
    predictions = answers["predictions"]
    outputs = {o["name"]: o for o in serving.transformer.post_v2(v2(texts)).json()["outputs"]}
    assert [p["id"] for p in predictions] == [f"n{i}" for i in range(40)]
    assert outputs["label"]["data"] == [p["label"] for p in predictions]
    assert outputs["labels"]["data"] == ["negative", "neutral", "positive"]
    assert outputs["probabilities"]["shape"] == [40, 3]
    assert outputs["review_key"]["data"] == [content_key(t) for t in texts]
    for number, prediction in enumerate(predictions):
        row = outputs["probabilities"]["data"][3 * number : 3 * number + 3]
        assert row == pytest.approx(list(prediction["probabilities"].values()), abs=1e-2)
        assert sum(row) == pytest.approx(1.0, abs=1e-3)
        assert prediction["score"] == max(prediction["probabilities"].values())
        assert prediction["model_version"] == "v0001"
        assert "threshold" not in prediction
        review = prediction["review"]
        assert review["key"] == content_key(texts[number])
        assert review["routed"] == (review["reason"] is not None)
        assert (review["reason"] == "low_confidence") == (prediction["score"] < 0.9)


def test_what_is_said_to_be_routed_is_in_the_outbox(serving: Serving) -> None:
    outbox = Outbox(serving.outbox_url)
    texts = some_texts(200, "routed")
    before = outbox.counts().pending
    counted = {
        r: serving.transformer.metric("reviewloop_routings_total", reason=r) for r in ("low_confidence", "audit")
    }
    predictions = serving.transformer.predict(*texts)
    routed = {p["review"]["key"]: p for p in predictions if p["review"]["routed"]}
    assert outbox.counts().pending == before + len(routed)
    reasons = [p["review"]["reason"] for p in routed.values()]
    for reason, number in counted.items():
        assert reasons.count(reason) > 0
        assert serving.transformer.metric("reviewloop_routings_total", reason=reason) == number + reasons.count(reason)
    again = serving.transformer.predict(*texts)
    assert [p["review"] for p in again] == [p["review"] for p in predictions]
    assert outbox.counts().pending == before + len(routed)
    items = {item.key: item for item in outbox.claim(10_000)}
    for key, prediction in routed.items():
        item = items[key]
        assert content_key(item.text) == key
        assert item.prediction == {name: prediction[name] for name in ("label", "probabilities")}
        assert (item.reason, item.model_version) == (prediction["review"]["reason"], "v0001")
        assert (item.confidence, item.propensity) == (prediction["score"], 1.0 if item.reason != "audit" else 0.1)
    assert serving.transformer.metric("reviewloop_outbox_depth") == outbox.counts().depth
    assert serving.transformer.metric("reviewloop_outbox_oldest_age_seconds") > 0
    outbox.release(items)
    outbox.close()


def test_predictions_are_counted_by_version_and_label(serving: Serving) -> None:
    name, labels = "reviewloop_predictions_total", {"model_version": "v0001"}
    before = serving.transformer.metric(name, **labels)
    serving.transformer.predict(*some_texts(7, "counted"))
    assert serving.transformer.metric(name, **labels) == before + 7
    assert MARKER not in serving.transformer.get("/metrics").text


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "text/plain"},
        {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "x", "ce_type": "y"},
    ],
)
def test_the_content_type_does_not_matter(server: Server, headers: dict[str, str]) -> None:
    text = some_texts(1, "type")[0]
    for response in (server.post_v1(v1([text]), **headers), server.post_v2(v2([text]), **headers)):
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"


BAD_V1 = {
    "empty list": v1([]),
    "no instances": {},
    "instances is a text": v1(MARKER),
    "instances is null": v1(None),
    "a list": [MARKER],
    "a number": v1([MARKER, 7]),
    "null": v1([None]),
    "no text": v1([{"id": MARKER}]),
    "text is a list": v1([{"text": [MARKER]}]),
    "empty text": v1([""]),
    "white space": v1(["\n \t"]),
    "a text of 1 MB": v1([MARKER * 77_000]),
    "10,000 texts": v1([MARKER] * 10_000),
}
BAD_V2 = {
    "empty list": v2([]),
    "no inputs": {},
    "inputs is a text": {"inputs": MARKER},
    "inputs is null": {"inputs": None},
    "a list": [MARKER],
    "a number": v2([MARKER, 7]),
    "null": v2([None]),
    "no data": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1]}]},
    "data is a text": v2(MARKER),
    "floats": v2([1.5], datatype="FP32"),
    "datatype is a number": v2([MARKER], datatype=7),
    "wrong shape": v2([MARKER], shape=[2]),
    "three dimensions": v2([[[MARKER]]], shape=[1, 1, 1]),
    "shape of texts": v2([MARKER], shape=["1"]),
    "empty text": v2([""]),
    "white space": v2(["\n \t"]),
    "a text of 1 MB": v2([MARKER * 77_000]),
    "10,000 texts": v2([MARKER] * 10_000),
}
BAD_BYTES = {
    "no body": b"",
    "not JSON": f'{{"instances": ["{MARKER}"'.encode(),
    "not UTF-8": b'{"instances": ["\xff ' + MARKER.encode() + b'"], "inputs": []}',
    "a form": f"instances={MARKER}".encode(),
    "9 MB": b'{"instances": ["' + b"a" * (MAX_BODY_BYTES + 1) + b'"]}',
}


def is_a_refusal(response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500, response.text
    (sentence,) = response.json().values()
    assert response.json().keys() == {"error"}
    assert len(sentence) > 20 and sentence[-1] in '."]'
    assert "Traceback" not in sentence and MARKER not in sentence


@pytest.mark.parametrize("body", [*BAD_V1.values(), *BAD_BYTES.values()], ids=[*BAD_V1, *BAD_BYTES])
def test_a_bad_v1_request_is_refused_with_a_sentence(server: Server, body: Any) -> None:
    is_a_refusal(server.post_v1(body))
    if isinstance(body, bytes):
        is_a_refusal(server.post_v1(body, content_type="application/x-www-form-urlencoded"))


@pytest.mark.parametrize("body", [*BAD_V2.values(), *BAD_BYTES.values()], ids=[*BAD_V2, *BAD_BYTES])
def test_a_bad_v2_request_is_refused_with_a_sentence(server: Server, body: Any) -> None:
    is_a_refusal(server.post_v2(body))
    if isinstance(body, bytes):
        is_a_refusal(server.post_v2(body, content_type="application/x-www-form-urlencoded"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/other:predict",
        "/v2/models/other/infer",
        f"/v1/models/{MODEL}:explain",
        f"/v2/models/{MODEL}/versions/1/infer",
        "/v2/repository/models/other/load",
        "/nothing",
    ],
)
def test_a_path_that_is_not_there_is_refused_with_a_sentence(server: Server, path: str) -> None:
    for body in (v1([MARKER]), v2([MARKER]), MARKER.encode()):
        response = server.post(path, body)
        assert response.status_code == 404
        assert response.json()["error"].endswith(".")


def test_limits_are_named(server: Server) -> None:
    assert "10,000 texts, more than the 1,000" in server.post_v1(BAD_V1["10,000 texts"]).json()["error"]
    assert "1,001,000 characters, more than the 50,000" in server.post_v1(BAD_V1["a text of 1 MB"]).json()["error"]
    assert f"at most {MAX_BODY_BYTES:,}" in server.post_v2(BAD_BYTES["9 MB"]).json()["error"]


def test_a_body_without_a_length_is_limited_too(server: Server) -> None:
    def chunks() -> Any:
        for _ in range(10):
            yield b"a" * 2**20

    is_a_refusal(httpx.post(f"{server.url}/v1/models/{MODEL}:predict", content=chunks(), timeout=30))


def test_the_largest_request_is_answered(server: Server) -> None:
    texts = some_texts(1000, "large")
    assert len(server.predict(*texts)) == 1000
    assert len(server.predict("a " * 24_999)) == 1


def test_the_model_cannot_be_unloaded(server: Server) -> None:
    is_a_refusal(server.post(f"/v2/repository/models/{MODEL}/unload", b""))
    assert server.predict(MARKER)


def test_only_the_predictor_loads(serving: Serving) -> None:
    is_a_refusal(serving.transformer.post(f"/v2/repository/models/{MODEL}/load", b""))


def test_metadata_names_the_version_that_answers(serving: Serving) -> None:
    metadata = serving.predictor.get(f"/v2/models/{MODEL}").json()
    assert metadata["versions"] == ["v0001"]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


def test_no_log_holds_a_text_or_a_stack_trace(serving: Serving) -> None:
    """Last in this module: by now every kind of request has been sent."""
    for server in (serving.predictor, serving.transformer):
        server.predict(MARKER)
        assert MARKER not in server.log
        assert "Traceback" not in server.log
        assert "Warning" not in server.log
