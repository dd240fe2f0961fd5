"""The connection to a Kubeflow Pipelines server: where it is, who we are, and what its refusals mean.

It uses the client's generated API, since :class:`kfp.Client` prints, warns, and reads and writes a file in the home
directory.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from reviewloop.errors import ReviewLoopError

ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_ENDPOINT_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_VARIABLE = "REVIEWLOOP_KFP_TOKEN"  # noqa: S105 - the variable's name
COOKIE_VARIABLE = "REVIEWLOOP_KFP_COOKIE"
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105
"""Where Kubeflow projects a pod's service account token for the pipelines' API."""

IN_CLUSTER_ENDPOINT = "http://ml-pipeline.kubeflow.svc:8888"

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0

_Answer = TypeVar("_Answer")


class PipelinesError(ReviewLoopError):
    """Kubeflow Pipelines refused a request, or has not got what is asked for."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, 0 if there was none."""


class PipelinesUnavailable(PipelinesError):
    """It did not answer, or answered 5xx; the request may or may not have taken effect."""


class Connection:
    """A server, with the credentials that the environment holds."""

    def __init__(self, endpoint: str | None = None) -> None:
        """``endpoint`` defaults to ``KF_PIPELINES_ENDPOINT`` and, in a pod, to the usual service.

        Raises:
            PipelinesError: there is none, or it is not an http:// or https:// URL.
        """
        endpoint = endpoint or os.environ.get(ENDPOINT_VARIABLE) or ""
        if not endpoint and "KUBERNETES_SERVICE_HOST" in os.environ:
            endpoint = IN_CLUSTER_ENDPOINT
        if not endpoint.startswith(("http://", "https://")):
            raise PipelinesError(
                f"Expected the http:// or https:// address of Kubeflow Pipelines in --endpoint or {ENDPOINT_VARIABLE}, "
                f"got {endpoint!r}. Without a gateway, `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8888:80` "
                "makes it http://localhost:8888."
            )
        self.endpoint = endpoint.rstrip("/")
        self._ui_endpoint = (os.environ.get(UI_ENDPOINT_VARIABLE) or self.endpoint).rstrip("/")
        configuration = kfp_server_api.Configuration(host=self.endpoint)
        # A request whose outcome is unknown is not repeated, and none with a line of the library's on the terminal.
        configuration.retries = Retry(total=5, connect=0, read=0)
        self._add_token(configuration)
        self._client = client = kfp_server_api.ApiClient(configuration, cookie=os.environ.get(COOKIE_VARIABLE) or None)
        self.health: Any = kfp_server_api.HealthzServiceApi(client)
        self.pipelines: Any = kfp_server_api.PipelineServiceApi(client)
        self.uploads: Any = kfp_server_api.PipelineUploadServiceApi(client)
        self.experiments: Any = kfp_server_api.ExperimentServiceApi(client)
        self.runs: Any = kfp_server_api.RunServiceApi(client)
        self.recurring_runs: Any = kfp_server_api.RecurringRunServiceApi(client)

    def run_link(self, run_id: str) -> str:
        """Where the dashboard shows a run."""
        return f"{self._ui_endpoint}/#/runs/details/{run_id}"

    def pipeline_link(self, pipeline_id: str) -> str:
        """Where the dashboard shows a pipeline."""
        return f"{self._ui_endpoint}/#/pipelines/details/{pipeline_id}"

    def call(self, operation: Callable[..., _Answer], *arguments: Any, **parameters: Any) -> _Answer:
        """Call one of the generated operations.

        Raises:
            PipelinesUnavailable: no answer, or 5xx.
            PipelinesError: it was refused.
        """
        try:
            answer = operation(*arguments, _request_timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), **parameters)
        except kfp_server_api.ApiException as error:
            raise self._explained(error) from None
        except HTTPError as error:
            raise PipelinesUnavailable(
                f"Kubeflow Pipelines at {self.endpoint} does not answer ({type(error).__name__}). Check --endpoint or "
                f"{ENDPOINT_VARIABLE}, and whether a port-forward still runs."
            ) from None
        # A gateway that wants a login answers with its page, out of which the client makes an empty object.
        kind = self._client.last_response.urllib3_response.headers.get("content-type", "")
        if "html" in kind:
            raise PipelinesError(
                f"What answers at {self.endpoint} is not Kubeflow Pipelines' API; perhaps it is a login page. "
                f"Put a token into {TOKEN_VARIABLE} or a session cookie into {COOKIE_VARIABLE}."
            )
        return answer

    def _add_token(self, configuration: Any) -> None:
        file = Path(os.environ.get(TOKEN_FILE_VARIABLE) or TOKEN_FILE)
        token = os.environ.get(TOKEN_VARIABLE)
        if not token and not file.exists():
            return
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.api_key["authorization"] = token or "read at each request"
        if token:
            return

        def read_token(configuration: Any) -> None:
            # The kubelet renews the file.
            configuration.api_key["authorization"] = file.read_text(encoding="utf-8").strip()

        configuration.refresh_api_key_hook = read_token

    def _explained(self, error: Any) -> PipelinesError:
        status, said = int(error.status or 0), _message(error.body)
        if status == 401:
            return PipelinesError(
                f"Kubeflow Pipelines at {self.endpoint} wants to know who asks (401). Put a token into "
                f"{TOKEN_VARIABLE} or a session cookie into {COOKIE_VARIABLE}, or renew the one that is there.",
                status,
            )
        if status == 403:
            return PipelinesError(
                f"Kubeflow Pipelines at {self.endpoint} forbids that to this user (403): {said}. Check "
                "cluster.pipeline_namespace, and that the user or service account may work in it.",
                status,
            )
        if status == 404:
            return PipelinesError(
                f"Kubeflow Pipelines at {self.endpoint} has not got that (404): {said}. Check that --endpoint is its "
                "root, without a page's path, and that the server is version 2.",
                status,
            )
        if status >= 500 or status in (0, 408, 429):
            return PipelinesUnavailable(f"Kubeflow Pipelines at {self.endpoint} answered {status}: {said}.", status)
        return PipelinesError(f"Kubeflow Pipelines at {self.endpoint} answered {status}: {said}.", status)


def _message(body: Any) -> str:
    """What the server says of an error, in its JSON or as it is."""
    try:
        document = json.loads(body)
        text = str(document.get("error_message") or document.get("message") or document.get("error") or document)
    except (ValueError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "no reason given")
    return " ".join(text.split())[:300].rstrip(".")
