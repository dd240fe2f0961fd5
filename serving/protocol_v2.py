"""KServe's V2 (Open Inference) protocol: texts arrive as a BYTES tensor, answers leave as named tensors."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from reviewloop.task_types import TaskType
from reviewloop.task_types.base import TensorType
from serving.errors import InvalidRequest
from serving.protocol import TextId, TextRequest, check_count, check_text, json_type, parse_json

TEXT_INPUT = "text"
ID_INPUT = "id"


def parse_v2(body: bytes) -> TextRequest:
    """The texts of the BYTES input named ``text`` (or of the only input there is), with the ids of ``id``.

    Raises:
        InvalidRequest: says which tensor is wrong and what was expected.
        RequestTooLarge: says which limit, what came, and what to change.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidRequest(f'The body must be an object with "inputs", got {json_type(document)}.')
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise InvalidRequest(
            '"inputs" must be a list of tensors: expected [{"name": "text", "datatype": "BYTES", '
            '"shape": [1], "data": ["a text"]}].'
        )
    ids_tensor = next((tensor for tensor in inputs if tensor.get("name") == ID_INPUT), None)
    others = [tensor for tensor in inputs if tensor is not ids_tensor]
    named = [tensor for tensor in others if tensor.get("name") == TEXT_INPUT]
    if len(others) != 1 and len(named) != 1:
        raise InvalidRequest(
            f'"inputs" must have one BYTES tensor of texts, named "{TEXT_INPUT}", got {len(others)} inputs.'
        )
    texts = _strings(named[0] if len(named) == 1 else others[0])
    for index, text in enumerate(texts):
        check_text(text, f"Element {index} of the texts")
    ids: list[TextId | None] = [None] * len(texts)
    if ids_tensor is not None:
        ids = list(_strings(ids_tensor))
        if len(ids) != len(texts):
            raise InvalidRequest(f'"{ID_INPUT}" must name each of the {len(texts)} texts, got {len(ids)} ids.')
    request_id = document.get("id")
    return TextRequest(texts, ids, request_id if isinstance(request_id, str) else None)


def output_types(task: TaskType) -> list[TensorType]:
    """The outputs that every answer of this task type has."""
    says, *others = task.tensor_types
    return [says, ("score", "FP32", [-1]), *others, ("model_version", "BYTES", [-1])]


def encode_v2(task: TaskType, model_name: str, request: TextRequest, predictions: Sequence[dict[str, Any]]) -> bytes:
    """The V1 answers ``predictions`` as named tensors over the texts.

    ``review_reason`` is an empty string for a text that was not routed.
    """
    count = len(predictions)
    tensors = {name: (shape, data) for name, _, shape, data in task.tensors(predictions)}
    for name in ("score", "model_version"):
        tensors[name] = [count], [p[name] for p in predictions]
    outputs = [_tensor(name, datatype, *tensors[name]) for name, datatype, _ in output_types(task)]
    if "threshold" in predictions[0]:
        outputs.append(_tensor("threshold", "FP32", [count], [p["threshold"] for p in predictions]))
    if "review" in predictions[0]:
        columns: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
            "review_routed": ("BOOL", lambda review: review["routed"]),
            "review_reason": ("BYTES", lambda review: review["reason"] or ""),
            "review_key": ("BYTES", lambda review: review["key"]),
        }
        for name, (datatype, read) in columns.items():
            outputs.append(_tensor(name, datatype, [count], [read(p["review"]) for p in predictions]))
    if request.ids and request.ids[0] is not None:
        outputs.append(_tensor(ID_INPUT, "BYTES", [count], request.ids))
    return orjson.dumps({"model_name": model_name, "id": request.request_id or str(uuid.uuid4()), "outputs": outputs})


def _strings(tensor: dict[str, Any]) -> list[str]:
    name = tensor.get("name")
    where = f'Input "{name}"' if isinstance(name, str) and len(name) <= 50 else "The input"
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if datatype != "BYTES":
        raise InvalidRequest(f'{where} must have datatype "BYTES", got {_short(datatype)}.')
    if data is None:
        raise InvalidRequest(f'{where} has no "data": send the strings as JSON, not as binary tensor data.')
    if not isinstance(data, list):
        raise InvalidRequest(f'{where} must have a list of strings as "data", got {json_type(data)}.')
    if not isinstance(shape, list) or not _is_vector(shape):
        raise InvalidRequest(f"{where} must have shape [n] or [n, 1] for n texts, got {_short(shape)}.")
    flat: list[Any] = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data]
    if shape[0] != len(flat):
        raise InvalidRequest(f"{where} has shape {shape}, but {len(flat)} elements. Make them agree.")
    check_count(len(flat), where)
    for index, value in enumerate(flat):
        if not isinstance(value, str):
            raise InvalidRequest(f"{where} must hold strings only, but element {index} is {json_type(value)}.")
    return flat


def _is_vector(shape: list[Any]) -> bool:
    sizes = all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    return sizes and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))


def _short(value: Any) -> str:
    return orjson.dumps(value).decode()[:60]


def _tensor(name: str, datatype: str, shape: list[int], data: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
