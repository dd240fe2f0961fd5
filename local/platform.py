"""The embedded platform: Label Studio, predictor, transformer and dispatcher on one machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from components.deploy.rollout import deploy_model
from local.label_studio_server import Credentials, start_label_studio, wait_for_label_studio
from local.processes import LOOPBACK, Part, free_port, start_part, stop_parts, wait_until_healthy
from pipelines.local_run import run_training_pipeline
from reviewloop.errors import PlatformError
from reviewloop.label_studio import API_KEY_VARIABLE, LabelStudioServer, ReviewProject
from reviewloop.registry import Registry
from reviewloop.spec import LoopSpec
from reviewloop.task_types import TaskType, task_type

START_TIMEOUT_S = 120.0
_PORTS = {"label_studio": 8080, "transformer": 8081, "predictor": 8082}
"""Asked for at the first start; another free one is taken where something listens already."""

_LABEL_STUDIO, _PREDICTOR, _TRANSFORMER, _DISPATCHER = "Label Studio", "predictor", "transformer", "dispatcher"
_PART_NAMES = (_LABEL_STUDIO, _PREDICTOR, _TRANSFORMER, _DISPATCHER)
_MODULES = {
    _PREDICTOR: "serving.predictor",
    _TRANSFORMER: "serving.transformer",
    _DISPATCHER: "serving.review.dispatcher",
}

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlatformState:
    """What is kept between commands: ports, and the parts that were started."""

    ports: dict[str, int]
    parts: list[Part]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The state in ``path``, or None if the platform was never started."""
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["ports"], [Part(**part) for part in content["parts"]])

    def save(self, path: Path) -> None:
        """Replace the state in ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class Platform:
    """One loop's parts, with everything they keep below ``directory``."""

    def __init__(self, spec: LoopSpec, directory: Path, *, dies_with_parent: bool = False) -> None:
        """``dies_with_parent`` ties the parts' lives to this process; otherwise they run until :meth:`stop`."""
        self.spec = spec
        self.directory = directory.resolve()
        self._dies_with_parent = dies_with_parent
        self._state_file = self.directory / "platform.json"
        self._state = PlatformState.load(self._state_file) or PlatformState({}, [])
        self.credentials = Credentials.of(self.directory / "label-studio")

    @property
    def task(self) -> TaskType:
        """The loop's task type."""
        return task_type(self.spec.task.type, self.spec.task.labels)

    @property
    def label_studio_url(self) -> str:
        """Where reviewers work."""
        return self._url("label_studio")

    @property
    def endpoint(self) -> str:
        """The transformer: where predictions are asked for."""
        return self._url("transformer")

    @property
    def predictor_url(self) -> str:
        """The predictor behind the transformer."""
        return self._url("predictor")

    @property
    def outbox_url(self) -> str:
        """The review queue's database."""
        return f"sqlite:///{self.directory / 'outbox.db'}"

    @property
    def registry_uri(self) -> str:
        """Where the versions are."""
        return (self.directory / "registry").as_uri()

    @property
    def registry(self) -> Registry:
        """The versions."""
        return Registry(self.registry_uri)

    @property
    def project(self) -> ReviewProject:
        """The loop's Label Studio project."""
        return ReviewProject(self.label_studio_url, self.credentials.api_key, self.spec.name, self.task)

    def running_parts(self) -> list[Part]:
        """The parts that run now."""
        return [part for part in self._state.parts if part.process]

    def start(self, report_progress: Progress) -> None:
        """Start every part that does not run, and wait until each is ready to do its work.

        Raises:
            PlatformError: a part did not start; what this call had started is stopped again.
        """
        running = {part.name: part for part in self.running_parts()}
        ports = self._state.ports
        if not running:
            ports = {name: free_port(self._state.ports.get(name, default)) for name, default in _PORTS.items()}
        self._state = PlatformState(ports, list(running.values()))
        try:
            self._start(running, report_progress)
        except BaseException:
            self._stop([part for part in self._state.parts if part.name not in running])
            raise

    def stop(self) -> list[str]:
        """Stop every part that runs, and return their names."""
        return self._stop(self.running_parts())

    def train(self, report_progress: Callable[[str, str], None], **parameters: Any) -> str | None:
        """Run the training pipeline against this platform; the new version, or None if training was skipped.

        Raises:
            PipelineFailed: a step failed.
        """
        before = self.registry.versions()
        os.environ[API_KEY_VARIABLE] = self.credentials.api_key  # For the steps; never a pipeline parameter.
        os.environ.setdefault("REVIEWLOOP_CODE_VERSION", code_version())
        run_training_pipeline(
            self.spec,
            {
                "registry_uri": self.registry_uri,
                "label_studio_url": self.label_studio_url,
                "predictor_url": self.predictor_url,
                "serving_dir": str(self._serving_dir),
                **parameters,
            },
            pipeline_root=self.directory / "pipeline",
            log=self.directory / "logs" / "training.log",
            report_progress=report_progress,
        )
        return next((v for v in reversed(self.registry.versions()) if v not in before), None)

    def deploy(self, version: str) -> None:
        """Make the predictor serve a version that a person chose.

        Raises:
            RolloutError: it did not come up healthy; the previous one serves again.
        """
        deploy_model(version, self.registry_uri, self.spec.name, self.predictor_url, self._serving_dir, by_hand=True)

    @property
    def _serving_dir(self) -> Path:
        return self.directory / "serving"

    def _start(self, running: dict[str, Part], report_progress: Progress) -> None:
        data_dir = self.directory / "label-studio"
        self._serving_dir.mkdir(parents=True, exist_ok=True)
        if len(running) < len(_PART_NAMES):
            report_progress("Starting " + ", ".join(name for name in _PART_NAMES if name not in running))
        label_studio = running.get(_LABEL_STUDIO) or self._keep(
            start_label_studio(
                data_dir,
                self._state.ports["label_studio"],
                self.credentials,
                self._log("label-studio"),
                dies_with_parent=self._dies_with_parent,
            )
        )
        server = ("--model_name", self.spec.name, "--host", LOOPBACK, "--enable_grpc", "false")
        predictor = running.get(_PREDICTOR) or self._start_module(
            _PREDICTOR,
            *server,
            *("--model_dir", str(self._serving_dir / "current")),
            *("--http_port", str(self._state.ports["predictor"])),
        )
        transformer = running.get(_TRANSFORMER) or self._start_module(
            _TRANSFORMER,
            *server,
            *("--predictor_host", f"{LOOPBACK}:{self._state.ports['predictor']}"),
            *("--http_port", str(self._state.ports["transformer"])),
            *("--outbox_url", self.outbox_url),
            *("--audit_rate", str(self.spec.review.audit_rate)),
            *("--task_type", self.spec.task.type),
        )
        wait_until_healthy(predictor, f"{self.predictor_url}/v2/health/live", START_TIMEOUT_S)
        wait_until_healthy(transformer, f"{self.endpoint}/v2/health/live", START_TIMEOUT_S)
        wait_for_label_studio(label_studio, self.label_studio_url, data_dir)
        LabelStudioServer(self.label_studio_url, self.credentials.api_key).ensure_project(
            self.spec.name, self.task, self.spec.task.instructions, self.spec.review.annotations_per_task
        )
        if _DISPATCHER not in running:
            self._start_module(
                _DISPATCHER,
                *("--outbox_url", self.outbox_url),
                *("--label_studio_url", self.label_studio_url),
                *("--project", self.spec.name),
                *("--task_type", self.spec.task.type),
                environment={API_KEY_VARIABLE: self.credentials.api_key},
            )
        if self.registry.champion():
            wait_until_healthy(predictor, f"{self.predictor_url}/v2/health/ready", START_TIMEOUT_S)

    def _stop(self, parts: list[Part]) -> list[str]:
        stop_parts(parts)
        self._state = PlatformState(self._state.ports, [part for part in self._state.parts if part not in parts])
        self._state.save(self._state_file)
        return [part.name for part in parts]

    def _start_module(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Part:
        return self._keep(
            start_part(
                name,
                [sys.executable, "-m", _MODULES[name], *arguments],
                self._log(name),
                environment or {},
                dies_with_parent=self._dies_with_parent,
            )
        )

    def _keep(self, part: Part) -> Part:
        self._state.parts.append(part)
        self._state.save(self._state_file)
        return part

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _url(self, name: str) -> str:
        try:
            return f"http://{LOOPBACK}:{self._state.ports[name]}"
        except KeyError:
            raise PlatformError(
                f"The platform in {self.directory} was never started. `reviewloop up` starts it."
            ) from None


def code_version() -> str:
    """The commit that the code here is at."""
    result = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
