"""Parsing and encoding, without a server."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewloop.records import Prediction
from reviewloop.task_types import TASK_TYPES, task_type
from serving.errors import InvalidRequest, RequestTooLarge
from serving.protocol import MAX_INSTANCES, MAX_TEXT_CHARACTERS, encode_v1, parse_v1, prediction_fields
from serving.protocol_v2 import encode_v2, output_types, parse_v2

texts = st.text(min_size=1).filter(lambda text: not text.isspace() and "\0" not in text)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=8,
)


def encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def tensor(data: Any, **changes: Any) -> dict[str, Any]:
    shape = [len(data)] if isinstance(data, list) else [1]
    return {"name": "text", "datatype": "BYTES", "shape": shape, "data": data} | changes


@given(st.lists(st.tuples(texts, st.none() | st.text() | st.integers(-(2**53), 2**53)), min_size=1, max_size=20))
def test_v1_keeps_texts_and_ids_in_order(instances: list[tuple[str, str | int | None]]) -> None:
    document = {"instances": [text if name is None else {"text": text, "id": name} for text, name in instances]}
    request = parse_v1(encoded(document))
    assert list(zip(request.texts, request.ids, strict=True)) == instances


@given(st.lists(texts, min_size=1, max_size=20), st.booleans())
def test_v2_keeps_texts_in_order(values: list[str], as_column: bool) -> None:
    data = [[value] for value in values] if as_column else values
    shape = [len(values), 1] if as_column else [len(values)]
    assert parse_v2(encoded({"inputs": [tensor(data, shape=shape)]})).texts == values


@given(json_values)
def test_any_json_is_parsed_or_refused_with_a_sentence(value: Any) -> None:
    for document in (value, {"instances": value}, {"instances": [value]}):
        _parses_or_refuses(parse_v1, document)
    for document in (value, {"inputs": value}, {"inputs": [tensor(value)]}, {"inputs": [tensor([value])]}):
        _parses_or_refuses(parse_v2, document)


def _parses_or_refuses(parse: Any, document: Any) -> None:
    try:
        request = parse(encoded(document))
    except InvalidRequest as error:
        assert str(error).endswith((".", '"}]', "]."))
    else:
        assert all(isinstance(text, str) and text.strip() for text in request.texts)


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ([], 'an object with "instances", got a list'),
        ({}, '"instances" is missing'),
        ({"instances": "text"}, "must be a list of texts, got a string"),
        ({"instances": None}, "must be a list of texts, got null"),
        ({"instances": []}, '"instances" is empty: send at least one text'),
        ({"instances": ["a", 7]}, "instances[1] must be a text or"),
        ({"instances": [{"id": "x"}]}, 'instances[0] has no "text"'),
        ({"instances": [{"text": 7}]}, "instances[0].text must be a string, got a number"),
        ({"instances": [{"text": "a", "id": True}]}, "instances[0].id must be a string or a whole number"),
        ({"instances": ["a", " \n"]}, "instances[1] is empty"),
        ({"instances": ["a\0b"]}, "NUL"),
    ],
)
def test_v1_says_what_to_change(document: Any, part: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_v1(encoded(document))
    assert part in str(error.value)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({}, '"inputs" must be a list of tensors'),
        ({"inputs": []}, "one BYTES tensor of texts"),
        ({"inputs": [tensor(["a"], name="x"), tensor(["b"], name="y")]}, 'named "text", got 2 inputs'),
        ({"inputs": [tensor([1.0], datatype="FP32")]}, 'must have datatype "BYTES", got "FP32"'),
        ({"inputs": [tensor(["a", "b"], shape=[3])]}, "has shape [3], but 2 elements"),
        ({"inputs": [tensor(["a"], shape=[1, 1, 1])]}, "must have shape [n] or [n, 1]"),
        ({"inputs": [tensor(["a"], shape="1")]}, "must have shape [n] or [n, 1]"),
        ({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1]}]}, 'has no "data"'),
        ({"inputs": [tensor([])]}, "is empty"),
        ({"inputs": [tensor([5])]}, "element 0 is a number"),
        ({"inputs": [tensor(["a", "b"]), tensor(["x"], name="id")]}, "each of the 2 texts, got 1 ids"),
    ],
)
def test_v2_says_what_to_change(document: Any, part: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_v2(encoded(document))
    assert part in str(error.value)


def test_limits_name_the_limit_and_what_came() -> None:
    with pytest.raises(RequestTooLarge, match="1,001 texts, more than the 1,000"):
        parse_v1(encoded({"instances": ["a"] * (MAX_INSTANCES + 1)}))
    with pytest.raises(RequestTooLarge, match="50,001 characters, more than the 50,000"):
        parse_v1(encoded({"instances": ["a" * (MAX_TEXT_CHARACTERS + 1)]}))
    assert len(parse_v1(encoded({"instances": ["a" * MAX_TEXT_CHARACTERS] * 2})).texts) == 2


def v1_answer(answer: dict[str, Any], score: float, routed: bool) -> dict[str, Any]:
    review = {"routed": routed, "reason": "audit" if routed else None, "key": "k"}
    return prediction_fields(Prediction(answer, score, "v1", 0.9)) | {"review": review}


def test_v2_answers_the_same_as_v1() -> None:
    predictions = [
        v1_answer({"label": "yes", "probabilities": {"no": 1 - score, "yes": score}}, score, routed)
        for score, routed in ((0.75, True), (0.5, False))
    ]
    assert list(predictions[0]) == ["label", "score", "probabilities", "model_version", "review"]
    request = parse_v2(encoded({"id": "42", "inputs": [tensor(["a", "b"]), tensor(["x", "y"], name="id")]}))
    answer = json.loads(encode_v2(task_type("text-classification", ()), "sentiment", request, predictions))
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["id"], answer["model_name"]) == ("42", "sentiment")
    assert list(outputs)[:5] == ["label", "score", "probabilities", "labels", "model_version"]
    assert outputs["probabilities"]["shape"] == [2, 2]
    assert outputs["probabilities"]["data"] == [0.25, 0.75, 0.5, 0.5]
    assert outputs["labels"]["data"] == ["no", "yes"]
    assert outputs["review_routed"] == {
        "name": "review_routed", "datatype": "BOOL", "shape": [2], "data": [True, False]
    }  # fmt: skip
    assert outputs["review_reason"]["data"] == ["audit", ""]
    assert outputs["id"]["data"] == ["x", "y"]
    v1 = json.loads(encode_v1(predictions, request.ids))["predictions"]
    assert [answer["id"] for answer in v1] == ["x", "y"]
    assert [answer["score"] for answer in v1] == outputs["score"]["data"]


ANSWERS: dict[str, list[dict[str, Any]]] = {
    "text-classification": [{"label": "yes", "probabilities": {"no": 0.2, "yes": 0.8}}] * 2,
    "multi-label-classification": [
        {"labels": labels, "probabilities": {"no": 0.2, "yes": 0.8}} for labels in (["yes"], [])
    ],
    "token-classification": [
        {"entities": [{"start": 0, "end": 2, "label": "yes", "text": '"ü', "score": 0.8}]},
        {"entities": []},
    ],
}


@pytest.mark.parametrize("name", TASK_TYPES)
def test_v2_outputs_are_as_the_metadata_says(name: str) -> None:
    task = task_type(name, ("no", "yes"))
    request = parse_v2(encoded({"inputs": [tensor(["a", "b"])]}))
    answer = json.loads(encode_v2(task, "m", request, [v1_answer(answer, 0.8, True) for answer in ANSWERS[name]]))
    outputs = [output for output in answer["outputs"] if not output["name"].startswith("review_")]
    assert [(output["name"], output["datatype"]) for output in outputs] == [t[:2] for t in output_types(task)]
    kinds = {"BYTES": str, "FP32": float, "BOOL": bool}
    for output, (_, datatype, shape) in zip(outputs, output_types(task), strict=True):
        assert len(output["shape"]) == len(shape)
        assert len(output["data"]) == math.prod(output["shape"]) > 0
        assert {type(value) for value in output["data"]} == {kinds[datatype]}


def test_v2_says_several_labels_and_entities() -> None:
    request = parse_v2(encoded({"inputs": [tensor(["a", "b"])]}))

    def first_output(name: str) -> dict[str, Any]:
        answers = [v1_answer(answer, 0.8, False) for answer in ANSWERS[name]]
        return json.loads(encode_v2(task_type(name, ()), "m", request, answers))["outputs"][0]

    assert first_output("multi-label-classification")["data"] == [False, True, False, False]
    entities = [json.loads(row) for row in first_output("token-classification")["data"]]
    assert entities == [answer["entities"] for answer in ANSWERS["token-classification"]]
