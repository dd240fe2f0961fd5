"""What a request for predictions may look like, in KServe's V1 and V2 protocols, and how large it may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from reviewloop.records import Prediction
from serving.errors import InvalidRequest, RequestTooLarge

MAX_INSTANCES = 1_000
MAX_TEXT_CHARACTERS = 50_000
MAX_BODY_BYTES = 8 * 1024 * 1024

TextId = str | int


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Texts to predict, in order. ``ids`` are the caller's own names for them, None where it gave none."""

    texts: list[str]
    ids: list[TextId | None]
    request_id: str | None = None
    """The ``id`` of a V2 request, which its answer repeats."""


def parse_json(body: bytes) -> Any:
    """The JSON document in ``body``, whatever content type it came with.

    Raises:
        InvalidRequest: it is not UTF-8, or not JSON.
    """
    if not body:
        raise InvalidRequest("The request has no body: expected a JSON object.")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body must be UTF-8, but byte {error.start} is not. Encode it as UTF-8 and send it again."
        ) from None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body must be JSON, but it is not: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None


def parse_v1(body: bytes) -> TextRequest:
    """The texts of ``{"instances": ["text", {"text": "...", "id": "..."}]}``.

    Raises:
        InvalidRequest: says which instance is wrong and what was expected.
        RequestTooLarge: says which limit, what came, and what to change.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidRequest(f'The body must be an object with "instances", got {json_type(document)}.')
    if "instances" not in document:
        raise InvalidRequest('"instances" is missing: expected {"instances": ["a text", ...]}.')
    instances = document["instances"]
    if not isinstance(instances, list):
        raise InvalidRequest(f'"instances" must be a list of texts, got {json_type(instances)}.')
    check_count(len(instances), '"instances"')
    texts: list[str] = []
    ids: list[TextId | None] = []
    for index, instance in enumerate(instances):
        text, text_id = (instance, None) if isinstance(instance, str) else _read_object(instance, index)
        check_text(text, f"instances[{index}]")
        texts.append(text)
        ids.append(text_id)
    return TextRequest(texts, ids)


def check_count(count: int, where: str) -> None:
    """Raises InvalidRequest for no text at all, RequestTooLarge for more than :data:`MAX_INSTANCES`."""
    if count == 0:
        raise InvalidRequest(f"{where} is empty: send at least one text.")
    if count > MAX_INSTANCES:
        raise RequestTooLarge(
            f"{where} has {count:,} texts, more than the {MAX_INSTANCES:,} allowed in one request. "
            "Split it into several requests."
        )


def check_text(text: str, where: str) -> None:
    """Raises InvalidRequest for a blank text or one with a NUL, RequestTooLarge for a long one."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise RequestTooLarge(
            f"{where} has {len(text):,} characters, more than the {MAX_TEXT_CHARACTERS:,} allowed. Shorten the text."
        )
    if not text or text.isspace():
        raise InvalidRequest(f"{where} is empty: a text needs at least one character that is not white space.")
    if "\0" in text:
        raise InvalidRequest(f"{where} contains a NUL character, which no text may. Remove it.")


def prediction_fields(prediction: Prediction) -> dict[str, Any]:
    """A prediction as the fields of its V1 answer: first what it says and how surely."""
    (name, says), *others = prediction.answer.items()
    return {name: says, "score": prediction.score, **dict(others), "model_version": prediction.model_version}


def encode_v1(predictions: Sequence[dict[str, Any]], ids: Sequence[TextId | None]) -> bytes:
    """``{"predictions": [...]}``; ``id`` goes into those that came with one."""
    answers = [
        answer if text_id is None else {"id": text_id, **answer}
        for answer, text_id in zip(predictions, ids, strict=True)
    ]
    return orjson.dumps({"predictions": answers})


def json_type(value: Any) -> str:
    """What JSON calls the type of ``value``, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]


def _read_object(instance: Any, index: int) -> tuple[str, TextId | None]:
    where = f"instances[{index}]"
    if not isinstance(instance, dict):
        raise InvalidRequest(f'{where} must be a text or {{"text": "..."}}, got {json_type(instance)}.')
    if "text" not in instance:
        raise InvalidRequest(f'{where} has no "text": expected {{"text": "...", "id": "..."}}.')
    text, text_id = instance["text"], instance.get("id")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string, got {json_type(text)}.")
    if text_id is not None and (isinstance(text_id, bool) or not isinstance(text_id, str | int)):
        raise InvalidRequest(f"{where}.id must be a string or a whole number, got {json_type(text_id)}.")
    return text, text_id
