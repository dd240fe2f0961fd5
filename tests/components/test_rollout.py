"""Rollouts to a real predictor: what serves afterwards, and what the registry says serves."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.deploy.local_predictor import deploy_to_local_predictor
from components.deploy.probes import _difference
from components.deploy.rollout import deploy_model
from components.evaluate.evaluation import EvaluationResult
from local import models_commands
from local.console import Console
from local.platform import PlatformState
from reviewloop.errors import RegistryError, RolloutError
from reviewloop.registry import Registry
from reviewloop.task_types import TaskType
from tests.components.conftest import Toy
from tests.components.evaluations import PROBES, evaluate, register
from tests.components.toy_task import MULTI, TOKENS
from tests.serving.processes import MODEL, Server, free_port, predictor, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A predictor that starts without a model. It need not be ready: a rollout waits for it."""
    directory = tmp_path_factory.mktemp("serving")
    process = predictor(directory / "current", directory.with_suffix(".log"))
    with running(process):
        yield process


class Rollout:
    """A registry, and the predictor to deploy its versions to."""

    def __init__(self, server: Server, serving_dir: Path, directory: Path, data: Path) -> None:
        self._server = server
        self._directory = directory
        self._data = data
        self.serving_dir = serving_dir
        self.registry_uri = (directory / "registry").as_uri()
        self.registry = Registry(self.registry_uri)

    def register(
        self, model: Path, change: Callable[[EvaluationResult], object] = lambda result: None, **evaluation: Any
    ) -> str:
        """The version number of ``model``, registered with its evaluation as ``change`` leaves it."""
        result = evaluate(evaluation.pop("data", self._data), model, self.registry_uri, **evaluation)
        change(result)
        return register(result, model, self.registry_uri, self._directory).version

    def deploy(self, version: str, url: str | None = None, timeout_s: float = 60.0) -> None:
        """Deploy ``version``."""
        deploy_to_local_predictor(version, self.registry, MODEL, url or self._server.url, self.serving_dir, timeout_s)

    def answer(self, text: str = PROBES[0]) -> dict[str, Any]:
        """What the predictor answers to ``text``, or to the first probe."""
        return dict(self._server.predict(text)[0])


@pytest.fixture
def rollout(server: Server, toy_dataset: Path, tmp_path: Path) -> Rollout:
    """An empty registry and an empty serving directory."""
    serving_dir = tmp_path / "serving"
    serving_dir.mkdir()
    # The predictor reads one path for all its life: this test's link stands behind it.
    link = server.log_path.with_suffix("") / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(serving_dir / "current")
    return Rollout(server, serving_dir, tmp_path, toy_dataset)


def tamper(result: EvaluationResult) -> None:
    """Record other answers to the probes than the model gives."""
    recorded = result.document["probes"][0]["challenger"]["probabilities"]
    recorded["positive"], recorded["negative"] = recorded["negative"], recorded["positive"]


def test_versions_follow_each_other_and_the_champion_is_what_serves(
    rollout: Rollout, toy_model: Path, untaught_model: Path
) -> None:
    for number, model in enumerate((untaught_model, toy_model), start=1):
        version = rollout.register(model)
        rollout.deploy(version)
        assert version == f"v000{number}"
        recorded = rollout.registry.manifest(version).evaluation["probes"][0]["challenger"]
        answer = rollout.answer()
        assert answer["model_version"] == version == rollout.registry.champion()
        assert answer["probabilities"] == pytest.approx(recorded["probabilities"], abs=0.02)
        assert (rollout.serving_dir / "current").resolve() == (rollout.serving_dir / version).resolve()


PHRASES = ("the film was very good and bad", "nothing at all")


@pytest.mark.parametrize("task", [MULTI, TOKENS], ids=lambda task: task.name)
def test_versions_of_every_task_type_are_deployed_and_rolled_back(
    rollout: Rollout, toy: Callable[[TaskType], Toy], task: TaskType
) -> None:
    about: dict[str, Any] = {"data": toy(task).dataset, "task": task, "probes": PHRASES}
    rollout.deploy(rollout.register(toy(task).model, **about))
    answer = rollout.answer(PHRASES[0])
    assert (answer["model_version"], rollout.registry.champion()) == ("v0001", "v0001")
    told = answer["labels"] if task is MULTI else [entity["label"] for entity in answer["entities"]]
    assert sorted(told) == ["negative", "positive"]

    def less_sure(result: EvaluationResult) -> None:
        recorded = result.document["probes"][0]["challenger"]
        if task is MULTI:
            recorded["probabilities"]["neutral"] += 0.5
        else:
            recorded["score"] -= 0.3

    rollout.register(toy(task).model, less_sure, **about)
    with pytest.raises(RolloutError, match=r"than at its evaluation: a probability differs by 0\.[345]"):
        rollout.deploy("v0002")
    assert rollout.answer(PHRASES[0])["model_version"] == rollout.registry.champion() == "v0001"


def test_entities_other_than_those_recorded_are_noticed(rollout: Rollout, toy: Callable[[TaskType], Toy]) -> None:
    about: dict[str, Any] = {"data": toy(TOKENS).dataset, "task": TOKENS, "probes": PHRASES}
    rollout.deploy(rollout.register(toy(TOKENS).model, **about))

    def shift(result: EvaluationResult) -> None:
        result.document["probes"][0]["challenger"]["entities"][0]["start"] += 1

    rollout.register(toy(TOKENS).model, shift, **about)
    with pytest.raises(RolloutError, match=r"^v0002 .* at its evaluation: other entities were found\. v0001 serves"):
        rollout.deploy("v0002")


def test_an_answer_that_was_undecided_may_be_decided_either_way() -> None:
    entity = {"start": 0, "end": 2, "label": "good", "text": "ab", "score": 0.55}
    undecided = {"entities": [entity], "score": 0.55}
    assert _difference(undecided, {"entities": [], "score": 0.56}) is None
    assert _difference(undecided, {"entities": [], "score": 0.58}) == (
        "a probability differs by 0.030, and 0.02 is allowed"
    )
    assert _difference(undecided | {"score": 0.9}, {"entities": [], "score": 0.9}) == "other entities were found"


def test_a_version_can_be_deployed_again(rollout: Rollout, toy_model: Path) -> None:
    version = rollout.register(toy_model)
    rollout.deploy(version)
    rollout.deploy(version)
    assert rollout.answer()["model_version"] == rollout.registry.champion() == version


def test_a_version_that_answers_its_probes_otherwise_is_rolled_back(
    rollout: Rollout, toy_model: Path, untaught_model: Path
) -> None:
    rollout.deploy(rollout.register(untaught_model))
    version = rollout.register(toy_model, tamper)
    with pytest.raises(
        RolloutError,
        match=r"^v0002 could not be deployed: A probe was answered otherwise than at its evaluation: a probability "
        r"differs by [01]\.\d+, and 0\.02 is allowed\. v0001 serves again\.$",
    ):
        rollout.deploy(version)
    assert rollout.answer()["model_version"] == rollout.registry.champion() == "v0001"
    assert (rollout.serving_dir / "current").resolve().name == "v0001"


def test_a_version_that_cannot_be_loaded_is_rolled_back(
    rollout: Rollout, toy_model: Path, untaught_model: Path, tmp_path: Path
) -> None:
    rollout.deploy(rollout.register(untaught_model))
    version = rollout.register(toy_model)
    damaged = tmp_path / "registry" / "versions" / version / "model" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(
        RolloutError,
        match=r"^v0002 could not be deployed: The predictor refused to load it: .*model.* v0001 serves again\.$",
    ):
        rollout.deploy(version)
    assert rollout.answer()["model_version"] == rollout.registry.champion() == "v0001"


def test_a_first_version_that_fails_leaves_nothing_deployed(rollout: Rollout, toy_model: Path) -> None:
    version = rollout.register(toy_model, tamper)
    with pytest.raises(RolloutError, match=r"^v0001 could not be deployed: .* Nothing served before\.$"):
        rollout.deploy(version)
    assert rollout.registry.champion() is None
    assert not (rollout.serving_dir / "current").is_symlink()


def test_a_predictor_that_loads_something_else_is_noticed(
    rollout: Rollout, toy_model: Path, untaught_model: Path
) -> None:
    rollout.deploy(rollout.register(untaught_model))
    version = rollout.register(toy_model)
    # Left over from another registry, under the same number.
    shutil.copytree(rollout.serving_dir / "v0001", rollout.serving_dir / version)
    with pytest.raises(RolloutError, match=r"The predictor serves v0001, not v0002\. v0001 serves again\."):
        rollout.deploy(version)
    # It is not kept, so that another attempt can succeed.
    rollout.deploy(version)
    assert rollout.answer()["model_version"] == "v0002"


def test_what_an_interrupted_download_left_is_not_served(rollout: Rollout, toy_model: Path, tmp_path: Path) -> None:
    version = rollout.register(toy_model)
    weights = tmp_path / "registry" / "versions" / version / "model" / "model.safetensors"
    aside = weights.rename(tmp_path / "aside")
    rollout.registry.fetch_model(version, rollout.serving_dir / f".{version}")
    aside.rename(weights)
    (rollout.serving_dir / f".{version}" / "left-over").touch()
    rollout.deploy(version)
    assert rollout.answer()["model_version"] == version
    assert not (rollout.serving_dir / version / "left-over").exists()


@pytest.mark.parametrize("deployed_before", [False, True])
def test_a_predictor_that_is_down_is_a_sentence_within_the_timeout(
    rollout: Rollout, toy_model: Path, deployed_before: bool
) -> None:
    if deployed_before:
        rollout.deploy(rollout.register(toy_model))
    version = rollout.register(toy_model)
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"The predictor at .* does not answer \(ConnectError\)\. Is it running\?"):
        rollout.deploy(version, url=f"http://127.0.0.1:{free_port()}", timeout_s=2.0)
    assert time.monotonic() - started < 3.5
    assert rollout.registry.champion() == ("v0001" if deployed_before else None)
    link = rollout.serving_dir / "current"
    assert (link.resolve().name == "v0001") if deployed_before else not link.is_symlink()


def test_a_version_that_was_never_registered_is_a_sentence(rollout: Rollout) -> None:
    with pytest.raises(RegistryError, match=r"There is no version v0007 in .*; known: none yet\."):
        rollout.deploy("v0007")


def test_a_version_that_was_compared_with_another_than_serves_is_not_deployed_unless_chosen_by_hand(
    rollout: Rollout, server: Server, toy_model: Path
) -> None:
    # Two runs train at once: both compare with nothing, as there is nothing yet.
    first, second = rollout.register(toy_model), rollout.register(toy_model)
    about = (rollout.registry_uri, MODEL, server.url, rollout.serving_dir)
    deploy_model(first, *about)
    with pytest.raises(
        RolloutError, match=r"^v0002 was compared with nothing, as the first version, but v0001 serves by now: .*\.$"
    ):
        deploy_model(second, *about)
    assert rollout.answer()["model_version"] == rollout.registry.champion() == "v0001"
    deploy_model(first, *about)  # A step that is retried finds its own version.
    deploy_model(second, *about, by_hand=True)
    assert rollout.answer()["model_version"] == rollout.registry.champion() == "v0002"


def test_a_person_promotes_and_rolls_back_on_this_machine(
    rollout: Rollout,
    server: Server,
    toy_model: Path,
    untaught_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    PlatformState({"predictor": server.port}, []).save(tmp_path / "platform.json")
    first, second = rollout.register(untaught_model), rollout.register(toy_model)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(models_commands, "console", Console())
        models_commands.models_app([*arguments, "--state", str(tmp_path)], standalone_mode=False)
        return capsys.readouterr().out

    assert run("promote", first).endswith("v0001 serves.\n")
    assert run("promote", second).endswith("v0002 serves; before, v0001 did.\n")
    assert rollout.answer()["model_version"] == second
    assert run("list").splitlines()[-1].split()[-1] == "serves"
    assert run("rollback").endswith("v0001 serves; before, v0002 did.\n")
    assert rollout.answer()["model_version"] == rollout.registry.champion() == first
    with pytest.raises(RegistryError, match=r"There is no version v0009"):
        run("promote", "v0009")
