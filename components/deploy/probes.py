"""Probes: texts whose answers were recorded at evaluation, asked again of what serves now."""

import json
from collections.abc import Sequence
from typing import Any

import httpx

from reviewloop.errors import RolloutError

PROBE_TOLERANCE = 0.02
"""How far a served probability may lie from the one recorded at evaluation: batching and bfloat16 cost less."""

DECIDED = 0.6

Probe = dict[str, Any]
"""A ``text``, and under ``challenger`` what the version answered to it at its evaluation."""

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)


def ask(predictor_url: str, model_name: str, probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """The predictor's answers to the probes; one request, so that one version gives all of them.

    Raises:
        RolloutError: it answered with an error.
        httpx.HTTPError: it did not answer.
    """
    response = httpx.post(f"{predictor_url}{path(model_name)}", json=request(probes), timeout=_TIMEOUT)
    return answers(response.status_code, response.text)


def path(model_name: str) -> str:
    """Where a predictor answers."""
    return f"/v1/models/{model_name}:predict"


def request(probes: Sequence[Probe]) -> dict[str, Any]:
    """The body of the request that asks all of them."""
    return {"instances": [probe["text"] for probe in probes]}


def answers(status: int, body: str) -> list[dict[str, Any]]:
    """The answers in a predictor's response.

    Raises:
        RolloutError: it is an error.
    """
    if status != httpx.codes.OK:
        raise RolloutError(f"Its probes were answered with {status}: {body[:300]}")
    return list(json.loads(body)["predictions"])


def compare(probes: Sequence[Probe], given: Sequence[dict[str, Any]]) -> None:
    """Raises RolloutError if an answer differs from the recorded one by more than rounding."""
    for probe, answer in zip(probes, given, strict=True):
        if differs := _difference(probe["challenger"], answer):
            raise RolloutError(f"A probe was answered otherwise than at its evaluation: {differs}.")


def _difference(recorded: dict[str, Any], served: dict[str, Any]) -> str | None:
    """How two answers to a probe differ by more than rounding; None if they agree."""
    if "probabilities" in recorded:
        pairs = [(p, served["probabilities"][label]) for label, p in recorded["probabilities"].items()]
    else:
        pairs = [(recorded["score"], served["score"])]
        # An answer less sure than that may be decided either way by a rounding error.
        if recorded["score"] > DECIDED and _places(recorded) != _places(served):
            return "other entities were found"
    worst = max(abs(old - new) for old, new in pairs)
    if worst > PROBE_TOLERANCE:
        return f"a probability differs by {worst:.3f}, and {PROBE_TOLERANCE} is allowed"
    return None


def _places(answer: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"]]
