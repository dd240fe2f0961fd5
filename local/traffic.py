"""Send texts to the endpoint as clients do: single and batched, V1 and V2."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from reviewloop.errors import DataError

_SIZES = (1, 1, 8, 1, 16, 1, 32)
"""Texts in a request, in turn; each size is sent as V1, then as V2."""


@dataclass(slots=True)
class TrafficResult:
    """What came back: requests, failed ones, texts, and the texts routed to review by reason."""

    requests: int = 0
    failed: int = 0
    texts: int = 0
    routed: dict[str, int] = field(default_factory=dict)
    model_versions: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    """The first few failures, for a person."""


@dataclass(frozen=True, slots=True)
class _Answer:
    model_version: str
    reason: str | None


def send_traffic(
    texts: Sequence[str],
    endpoint: str,
    model_name: str,
    report_progress: Callable[[int], None] = lambda sent: None,
    clients: int = 8,
) -> TrafficResult:
    """Send every text once from ``clients`` concurrent clients; a failed request is counted, not raised.

    ``report_progress`` gets the number of texts answered since its last call.
    """
    return asyncio.run(_send_all(texts, endpoint, model_name, report_progress, clients))


def read_texts(path: Path, text_field: str) -> list[str]:
    """The texts of a ``.jsonl`` file, or the lines of any other.

    Raises:
        DataError: the file is missing, or a row has no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}. Pass one with --file: .jsonl, or one text a line.") from None
    if path.suffix != ".jsonl":
        return [line for line in lines if line.strip()]
    try:
        return [str(json.loads(line)[text_field]) for line in lines]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected objects with a field {text_field!r} ({error!r}).") from None


async def _send_all(
    texts: Sequence[str], endpoint: str, model_name: str, report_progress: Callable[[int], None], clients: int
) -> TrafficResult:
    result = TrafficResult()
    requests = _requests(texts)
    async with httpx.AsyncClient(base_url=endpoint, timeout=60.0) as client:

        async def work() -> None:
            for protocol, batch in requests:
                await _send(client, model_name, protocol, batch, result)
                report_progress(len(batch))

        await asyncio.gather(*(work() for _ in range(clients)))
    return result


def _requests(texts: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    start = 0
    for size, protocol in cycle((size, protocol) for size in _SIZES for protocol in ("v1", "v2")):
        if start >= len(texts):
            return
        yield protocol, texts[start : start + size]
        start += size


async def _send(
    client: httpx.AsyncClient, model_name: str, protocol: str, batch: Sequence[str], result: TrafficResult
) -> None:
    result.requests += 1
    try:
        if protocol == "v1":
            response = await client.post(f"/v1/models/{model_name}:predict", json={"instances": list(batch)})
        else:
            tensor = {"name": "text", "shape": [len(batch)], "datatype": "BYTES", "data": list(batch)}
            response = await client.post(f"/v2/models/{model_name}/infer", json={"inputs": [tensor]})
        response.raise_for_status()
    except httpx.HTTPError as error:
        result.failed += 1
        if len(result.failures) < 5:
            result.failures.append(f"{type(error).__name__}: {error}")
        return
    result.texts += len(batch)
    for answer in (_v1_answers if protocol == "v1" else _v2_answers)(response.json()):
        result.model_versions.add(answer.model_version)
        if answer.reason:
            result.routed[answer.reason] = result.routed.get(answer.reason, 0) + 1


def _v1_answers(body: dict[str, Any]) -> Iterator[_Answer]:
    for prediction in body["predictions"]:
        yield _Answer(prediction["model_version"], prediction["review"]["reason"])


def _v2_answers(body: dict[str, Any]) -> Iterator[_Answer]:
    outputs = {output["name"]: output["data"] for output in body["outputs"]}
    for version, reason in zip(outputs["model_version"], outputs["review_reason"], strict=True):
        yield _Answer(version, reason or None)
