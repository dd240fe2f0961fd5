"""The rollout on a cluster: move the InferenceService to a version, watch it, and move it back if it does badly.

What a rollout knows is in the cluster and the registry: the InferenceService says which version it was moved to and
which share of the traffic that has, the ``champion`` alias which version served before. So one that was interrupted
continues when it is run again.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from components.deploy import status
from components.deploy.kubernetes_api import GROUP, VERSION, Conflict, InferenceServices, Manifest
from components.deploy.probes import Probe, answers, ask, compare, path, request
from reviewloop.errors import ClusterError, RolloutError
from reviewloop.registry import KubeflowIds, Registry, version_number
from reviewloop.spec import ClusterSpec

CANARY_STEPS = (10, 50, 100)
"""Percent of the traffic that a new version gets in Knative mode, each only after the one before has been checked."""

POLL_S = 2.0
"""Between two looks at what serves."""

CONFIRMATIONS = 3
"""How often in a row the new version must answer: in between, a pod of the old one may still do."""

CANARY_ATTEMPTS = 25
"""Requests in one look while the old version has a share too: at 10% most answers are its."""

RETURN_TIMEOUT_S = 300.0
"""How long the previous version may take to serve again."""

FAILED_LOAD_PATIENCE = 0.2
"""The share of the timeout for which a model may fail to load: its pod tries again, and the store may be busy."""

VERSION_LABEL = "reviewloop.dev/version"
KUBEFLOW_LABELS = "modelregistry.kubeflow.org"
_CONFLICTS = 20
"""How often in a row someone else may write between our look and our request. KServe itself does, at every change."""

_WATCH_S = 10


class _DidBadly(Exception):
    """The version does not serve as it should: a sentence that says how."""


class Rollout:
    """The rollout of one version to one InferenceService."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        cluster: ClusterSpec,
        serving_image: str = "",
        *,
        by_hand: bool = False,
        report: Callable[[str], None] = print,
        poll_s: float = POLL_S,
    ) -> None:
        """``by_hand``: a person chose the version, so that it may replace a newer one."""
        self._registry = registry
        self._name = name
        self._cluster = cluster
        self._serving_image = serving_image
        self._by_hand = by_hand
        self._report = report
        self._poll_s = poll_s
        self._deadline = time.monotonic() + cluster.rollout_timeout_s
        self._services = InferenceServices(cluster.namespace, self._deadline)
        self._moved = False
        self._moved_to: str | None = None
        self._shown: dict[str, str] = {}
        self._predictor_url = ""
        self._through_api = False

    def run(self, version: str, ids: KubeflowIds | None = None) -> None:
        """Make ``version`` serve, then point the ``champion`` alias to it.

        Raises:
            RegistryError: there is no such version.
            RolloutError: it did not become ready in time, or answered its probes otherwise than at its evaluation, and
                the previous version serves again; or another version came first, and nothing was moved back.
            ClusterError: the Kubernetes API refused, or did not answer. What it was told so far stays.
        """
        probes = self._registry.manifest(version).evaluation["probes"]
        previous = self._registry.champion()
        with _left_as_it_is_when_terminated(version):
            steps = self._prepare(version, previous)
            try:
                for percent in steps:
                    self._apply(version, percent, ids)
                    self._until_it_answers(version, percent, probes)
            except _DidBadly as error:
                raise RolloutError(self._return_to(previous, version, str(error))) from error
        if self._registry.champion() not in (previous, version):
            raise RolloutError(
                f"{version} answers its probes, but another run made {self._registry.champion()} the champion."
            )
        self._registry.set_champion(version)

    def _prepare(self, version: str, previous: str | None) -> tuple[int | None, ...]:
        """The shares of the traffic to go through; None in Standard mode, which knows none."""
        service = self._services.read(self._name)
        if service is None:
            self._services.create(self._manifest())
            self._report(f"Created InferenceService {self._name} in namespace {self._cluster.namespace}")
            service = self._read()
        mode = status.deployment_mode(service) or self._cluster.deployment_mode
        if mode != self._cluster.deployment_mode:
            raise RolloutError(
                f"InferenceService {self._name} runs in {mode} mode, which cannot change, and cluster.deployment_mode "
                f"is {self._cluster.deployment_mode}. Set that to {mode}, or delete the InferenceService."
            )
        if previous is not None and status.has_served(service):
            self._choose_way(service)
        if mode == "Standard":
            return (None,)
        if previous is None or previous == version:
            return CANARY_STEPS[-1:]
        begun = status.storage_uri(service) == self._registry.model_uri(version)
        reached = status.canary_percent(service) if begun else 0
        return tuple(percent for percent in CANARY_STEPS if percent >= reached)

    def _manifest(self) -> Manifest:
        """A new InferenceService: as `kubectl apply` would make it, still without a model."""
        text = (files(__package__) / "inference-service.yaml").read_text(encoding="utf-8")
        manifest: Manifest = yaml.safe_load(text)
        metadata = manifest["metadata"]
        metadata |= {"name": self._name, "namespace": self._cluster.namespace}
        metadata.setdefault("annotations", {})[status.MODE_ANNOTATION] = self._cluster.deployment_mode
        for container in manifest["spec"]["transformer"]["containers"]:
            if self._serving_image:
                container["image"] = self._serving_image
            if self._cluster.deployment_mode == "Knative":
                del container["lifecycle"]
        if self._cluster.deployment_mode == "Knative":
            # As in k8s/overlays/knative: Knative ends pods in its own way, and refuses to be told another.
            for part in manifest["spec"].values():
                part.pop("deploymentStrategy", None)
                part["timeout"] = part.pop("terminationGracePeriodSeconds")
        return manifest

    def _apply(self, version: str | None, percent: int | None, ids: KubeflowIds | None) -> Manifest:
        """Move it to ``version``, or to no model; the InferenceService as it was before.

        Only what is ours is applied, and only to what was looked at: between look and request nobody else has
        written, so of two rollouts at once the newer version's wins.
        """
        uri = None if version is None else self._registry.model_uri(version)
        labels: dict[str, str] = {}
        spec: dict[str, Any] = {}
        if version is not None:
            spec["predictor"] = {"model": {"storageUri": uri}}
            labels[VERSION_LABEL] = version
        if percent is not None:
            spec["predictor"]["canaryTrafficPercent"] = percent
        if ids is not None:
            labels[f"{KUBEFLOW_LABELS}/registered-model-id"] = ids.registered_model
            labels[f"{KUBEFLOW_LABELS}/model-version-id"] = ids.model_version
        for _ in range(_CONFLICTS):
            service = self._read()
            if self._moved:
                self._check_ours(service)
            elif version is not None and not self._by_hand:
                self._check_newest(service, version)
            identity = {
                "name": self._name,
                "namespace": self._cluster.namespace,
                "resourceVersion": service["metadata"]["resourceVersion"],
            }
            try:
                self._services.apply(
                    {
                        "apiVersion": f"{GROUP}/{VERSION}",
                        "kind": "InferenceService",
                        "metadata": {**identity, "labels": labels},
                        "spec": spec,
                    }
                )
            except Conflict:
                continue
            self._moved, self._moved_to = True, uri
            share = "" if percent is None else f", {percent}% of the traffic"
            self._report(f"Moved InferenceService {self._name} to {version or 'no model'}{share}")
            return service
        raise ClusterError(
            f"InferenceService {self._name} was changed by others {_CONFLICTS} times in a row before it could be moved "
            f"to {version}. Find out who writes to it (`kubectl get isvc {self._name} --show-managed-fields -o yaml`)."
        )

    def _read(self) -> Manifest:
        service = self._services.read(self._name)
        if service is None:
            raise RolloutError(
                f"InferenceService {self._name} was deleted meanwhile. Run this again to make a new one."
            )
        return service

    def _check_ours(self, service: Manifest) -> None:
        """Raises RolloutError if someone else moved it on."""
        if (now := status.storage_uri(service)) != self._moved_to:
            raise RolloutError(
                f"InferenceService {self._name} was moved to {now or 'no model'} by someone else meanwhile; that is "
                "left as it is."
            )

    def _check_newest(self, service: Manifest, version: str) -> None:
        """Raises RolloutError if a newer version than ``version`` is being rolled out."""
        for other in self._registry.versions():
            if version_number(other) > version_number(version) and self._is_at(service, other):
                raise RolloutError(
                    f"{version} is not deployed: InferenceService {self._name} is at the newer {other}. To deploy it "
                    f"all the same, `reviewloop models promote {version}`."
                )

    def _is_at(self, service: Manifest, version: str) -> bool:
        return status.storage_uri(service) == self._registry.model_uri(version)

    def _choose_way(self, service: Manifest) -> None:
        """Ask the predictor by way of the Kubernetes API where its names have no meaning, as outside the cluster.

        Raises:
            RolloutError: there is no such way in Knative mode: the predictor could not be probed.
        """
        hosts = [urlsplit(url).hostname or "" for url in status.predictor_urls(service)]
        for host in hosts:
            with contextlib.suppress(OSError):
                socket.getaddrinfo(host, None)
                return
        if self._cluster.deployment_mode == "Knative":
            raise RolloutError(
                f"The predictor cannot be probed from here: {', '.join(dict.fromkeys(hosts))} cannot be resolved. Run "
                "this within the cluster or its network. Nothing was changed."
            )
        self._through_api = True

    def _until_it_answers(self, version: str, percent: int | None, probes: list[Probe]) -> None:
        """Return once it is ready and ``version`` has answered the probes as recorded, some times in a row.

        Raises:
            _DidBadly: it answered otherwise, or was not ready in time.
        """
        confirmed, failing_since = 0, None
        while True:
            service = self._read()
            self._check_ours(service)
            self._show(service)
            ready, now = status.is_ready(service), time.monotonic()
            trouble = self._probe(service, version, percent, probes) if ready else status.trouble(service)
            confirmed = 0 if trouble else confirmed + 1
            if confirmed == CONFIRMATIONS:
                self._report(f"{version} answers its {len(probes)} probes as at its evaluation")
                return
            failing_since = (failing_since or now) if trouble and status.has_failed(service) else None
            patience = self._cluster.rollout_timeout_s * FAILED_LOAD_PATIENCE
            if failing_since is not None and now - failing_since > patience:
                raise _DidBadly(f"It could not be loaded: {status.trouble(service)}.")
            self._wait(service, ready=ready, otherwise=trouble)

    def _until_a_new_revision_is_ready(self, before: Manifest) -> None:
        while True:
            service = self._read()
            self._check_ours(service)
            self._show(service)
            ready = status.is_ready(service)
            if ready and status.created_revision(service) != status.created_revision(before):
                return
            self._wait(service, ready=ready, otherwise=status.trouble(service))

    def _wait(self, service: Manifest, *, ready: bool, otherwise: str) -> None:
        """Pause before the next look: until something changes, where nothing can be asked yet.

        Raises:
            _DidBadly: there is no time left; says ``otherwise``.
        """
        left = self._services.deadline - time.monotonic()
        if left <= 0:
            raise _DidBadly(f"It did not serve in time: {otherwise.rstrip('.')}.")
        if ready:
            time.sleep(self._poll_s)
            return
        seconds = max(1, min(_WATCH_S, int(left / 10)))  # Short enough to notice in time that time is up.
        with contextlib.closing(self._services.follow(self._name, seconds)) as changes:
            for change in changes:
                if change["metadata"]["resourceVersion"] != service["metadata"]["resourceVersion"]:
                    return

    def _probe(self, service: Manifest, version: str, percent: int | None, probes: list[Probe]) -> str:
        """Why ``version`` has not answered yet; nothing once it has, as recorded.

        Raises:
            _DidBadly: it answered otherwise than recorded.
        """
        for _ in range(1 if percent in (None, 100) else CANARY_ATTEMPTS):
            given = self._ask(service, probes)
            if isinstance(given, str):
                return given
            versions = {str(answer["model_version"]) for answer in given}
            if versions == {version}:
                try:
                    compare(probes, given)
                except RolloutError as error:
                    raise _DidBadly(str(error)) from error
                return ""
        return f"its probes are answered by {', '.join(sorted(versions))}"

    def _ask(self, service: Manifest, probes: list[Probe]) -> list[dict[str, Any]] | str:
        """The answers, or why there are none, from the first address that answers."""
        if self._through_api:
            try:
                return answers(*self._services.post_to_predictor(self._name, path(self._name), request(probes)))
            except (RolloutError, ValueError, KeyError, TypeError) as error:
                return f"its predictor does not answer the probes by way of the Kubernetes API ({error})"
        troubles = []
        for url in dict.fromkeys([*filter(None, [self._predictor_url]), *status.predictor_urls(service)]):
            try:
                given = ask(url, self._name, probes)
                if all("model_version" in answer for answer in given):
                    self._predictor_url = url
                    return given
                troubles.append(f"{url}: its answers name no model_version")
            except RolloutError as error:
                troubles.append(f"{url}: {error}")
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                troubles.append(f"{url}: {type(error).__name__}")
        return "its predictor does not answer the probes (" + "; ".join(troubles) + ")"

    def _show(self, service: Manifest) -> None:
        """Report the conditions that have changed."""
        conditions = status.conditions(service)
        for name, value in conditions.items():
            if self._shown.get(name) != value:
                self._report(f"{name} is {value}")
        self._shown = conditions

    def _return_to(self, previous: str | None, version: str, reason: str) -> str:
        """Move it back to ``previous``, and say what came of it."""
        failed = f"{version} could not be deployed: {reason}"
        if previous == version:
            return f"{failed} It is the champion, and stays where it is."
        self._report(failed)
        self._services.deadline = time.monotonic() + min(RETURN_TIMEOUT_S, self._cluster.rollout_timeout_s)
        try:
            if previous is None:
                self._apply(None, None, None)
                return f"{failed} Nothing served before."
            ids = self._registry.kubeflow_ids(previous)
            percent = None
            if self._cluster.deployment_mode == "Knative":
                # At 0% the revision that served before has all of the traffic until its successor is ready. At 100%
                # the latest that is ready would have it: the one that did badly.
                before = self._apply(previous, 0, ids)
                self._until_a_new_revision_is_ready(before)
                percent = 100
            self._apply(previous, percent, ids)
            self._until_it_answers(previous, percent, self._registry.manifest(previous).evaluation["probes"])
        except (_DidBadly, RolloutError, ClusterError) as error:
            return f"{failed} {previous or 'No model'} was put back, but: {error}"
        return f"{failed} {previous} serves again."


@contextlib.contextmanager
def _left_as_it_is_when_terminated(version: str) -> Iterator[None]:
    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(
            f"Ended while {version} was being rolled out. The InferenceService stays as it is; run this again and it "
            "continues."
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
