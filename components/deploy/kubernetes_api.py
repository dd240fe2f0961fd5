"""InferenceServices at the Kubernetes API: what a rollout asks of it, and its refusals as sentences."""

import json
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

from reviewloop.errors import ClusterError

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
VERBS = ("get", "list", "watch", "create", "patch")
"""All that is asked of InferenceServices, and so what the Role of the pipeline allows."""

FIELD_MANAGER = "reviewloop"
CREATOR = "reviewloop-create"
"""Who fills in a new InferenceService. Apart from the field manager, which gives up what it no longer applies."""

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_APPLY = "application/apply-patch+yaml"
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
_TIMEOUT_S = (5, 30)
"""To connect, and to be answered."""

Manifest = dict[str, Any]


class Conflict(Exception):
    """The object changed since it was read: read it again."""


class InferenceServices:
    """The InferenceServices of one namespace.

    What can pass by itself (no connection, 429, 5xx) is tried again with growing pauses until ``deadline``, a time of
    ``time.monotonic()`` that the owner may move.
    """

    def __init__(self, namespace: str, deadline: float) -> None:
        """Connect with the pod's service account, or outside a cluster as kubectl would.

        Raises:
            ClusterError: there is neither.
        """
        self.namespace = namespace
        self.deadline = deadline
        self._host, configuration = _configuration()
        self._api = client.CustomObjectsApi(client.ApiClient(configuration))
        # This version of the client has no argument for the content type, and would send a merge patch.
        applying = client.ApiClient(configuration)
        applying.set_default_header("Content-Type", _APPLY)
        self._apply_api = client.CustomObjectsApi(applying)

    def read(self, name: str) -> Manifest | None:
        """The InferenceService, or None if there is none of that name.

        Raises:
            ClusterError: the API refused, or did not answer.
        """
        try:
            found = self._call("get", self._api.get_namespaced_custom_object, name)
        except _NotFound:
            return None
        return cast(Manifest, found)

    def create(self, manifest: Manifest) -> None:
        """Make an InferenceService, unless there is one of that name by now.

        Raises:
            ClusterError: the API refused, or did not answer.
        """
        try:
            self._call(
                "create",
                self._api.create_namespaced_custom_object,
                manifest,
                field_manager=CREATOR,
                field_validation="Strict",
            )
        except Conflict:
            return  # Made by someone else, or by an attempt whose answer was lost.
        except _NotFound:
            raise ClusterError(
                f"There is no namespace {self.namespace} at {self._host}. Create what the loop needs there: "
                "`kubectl apply -k k8s/overlays/standard`, or your own overlay."
            ) from None

    def apply(self, manifest: Manifest) -> None:
        """Apply fields on the server, as the manager of exactly these.

        Raises:
            Conflict: it is not any more at the ``resourceVersion`` in the manifest.
            ClusterError: the API refused, or did not answer.
        """
        name = manifest["metadata"]["name"]
        try:
            self._call(
                "patch",
                self._apply_api.patch_namespaced_custom_object,
                name,
                manifest,
                field_manager=FIELD_MANAGER,
                # Of these fields, ours is the word that counts, whoever wrote them first.
                force=True,
                field_validation="Strict",
            )
        except _NotFound:
            raise Conflict from None  # Deleted since it was read.

    def follow(self, name: str, seconds: int) -> Generator[Manifest, None, None]:
        """The InferenceService as it is, and then at each change for so many seconds; nothing if it is deleted.

        Raises:
            ClusterError: the API refused, or did not answer.
        """
        selector = f"metadata.name={name}"
        found = self._call("list", self._api.list_namespaced_custom_object, field_selector=selector)
        yield from found["items"]
        try:
            for event in watch.Watch().stream(
                self._api.list_namespaced_custom_object,
                *(GROUP, VERSION, self.namespace, PLURAL),
                field_selector=selector,
                resource_version=found["metadata"]["resourceVersion"],
                timeout_seconds=seconds,
                _request_timeout=(_TIMEOUT_S[0], seconds + _TIMEOUT_S[0]),
            ):
                if event["type"] == "DELETED":
                    return
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        except ApiException as error:
            if error.status in (401, 403):
                raise self._refusal("watch", error) from error
            time.sleep(_FIRST_PAUSE_S)  # Whoever follows lists again, and that is where trouble is handled.
        except urllib3.exceptions.HTTPError:
            time.sleep(_FIRST_PAUSE_S)

    def post_to_predictor(self, name: str, path: str, document: Manifest) -> tuple[int, str]:
        """The status and body that the predictor of InferenceService ``name`` answers, by way of the Kubernetes API.

        For who is outside the cluster, in Standard mode, and may use the proxy of services as an administrator may.
        """
        try:
            response = self._api.api_client.call_api(
                f"/api/v1/namespaces/{self.namespace}/services/http:{name}-predictor:80/proxy{path}",
                "POST",
                header_params={"Content-Type": "application/json", "Accept": "application/json"},
                body=document,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT_S,
            )
        except ApiException as error:
            return int(error.status or 0), str(error.body)
        except urllib3.exceptions.HTTPError as error:
            return 0, f"the Kubernetes API does not answer ({type(error).__name__})"
        return int(response.status), response.data.decode("utf-8", "replace")

    def _call(self, verb: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return function(
                    GROUP, VERSION, self.namespace, PLURAL, *arguments, **options, _request_timeout=_TIMEOUT_S
                )
            except ApiException as error:
                if error.status not in _TRY_AGAIN:
                    raise self._refusal(verb, error) from error
                trouble = f"answered {error.status} ({_message(error)})"
            except urllib3.exceptions.HTTPError as error:
                trouble = f"does not answer ({type(error).__name__})"
            if time.monotonic() + pause > self.deadline:
                raise ClusterError(
                    f"The Kubernetes API at {self._host} {trouble}, as long as there was time to wait. What it was "
                    "told so far stays; run this again and it continues."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _refusal(self, verb: str, error: ApiException) -> Exception:
        message = _message(error)
        # An admission webhook refuses with 403 too, and no Role helps against that.
        if error.status == 403 and "denied the request" not in message:
            return ClusterError(
                f"The Kubernetes API refused to {verb} InferenceServices in namespace {self.namespace} ({message}). "
                f"The Role that allows it is part of the manifests: `kubectl apply -k k8s/overlays/standard`, or your "
                "own overlay."
            )
        if error.status == 401:
            return ClusterError(
                f"The Kubernetes API at {self._host} did not accept the credentials. Within the cluster they are the "
                "pod's service account; outside, log in again so that kubectl works."
            )
        if error.status == 404:
            if _is_about_an_object(error):
                return _NotFound()
            return ClusterError(
                f"KServe is not installed at {self._host}: the Kubernetes API knows no {PLURAL}.{GROUP}. Install "
                "KServe 0.15 or newer, then run this again."
            )
        if error.status == 409:
            return Conflict()
        return ClusterError(f"The Kubernetes API refused to {verb} the InferenceService: {message}")


class _NotFound(Exception):
    """There is no object of that name."""


def _configuration() -> tuple[str, client.Configuration]:
    configuration = client.Configuration()
    try:
        chosen = os.environ.get("KUBECONFIG")  # The client looks at it when it is imported only.
        if _TOKEN.exists() and not chosen:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(chosen, client_configuration=configuration)
    except config.ConfigException as error:
        raise ClusterError(
            f"There is no way to the Kubernetes API: {error} Run this in the cluster, or set KUBECONFIG as for kubectl."
        ) from error
    configuration.retries = False  # Pauses between attempts are ours: the client would try again at once.
    return str(configuration.host), configuration


def _status(error: ApiException) -> dict[str, Any]:
    try:
        status = json.loads(error.body or "")
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}


def _message(error: ApiException) -> str:
    return str(_status(error).get("message") or error.reason or "no reason given")


def _is_about_an_object(error: ApiException) -> bool:
    # A server without the definition says so in plain text, or in a Status that names no object.
    return bool((_status(error).get("details") or {}).get("name"))
