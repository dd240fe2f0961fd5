"""One loop's training pipeline on Kubeflow Pipelines: its versions, runs and schedule."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kfp_server_api

from pipelines.connection import Connection, PipelinesError
from pipelines.training import pipeline_name
from reviewloop.spec import LoopSpec

ACTIVE_STATES = frozenset({"RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED"})
"""States of a run that has not ended."""

HISTORY = timedelta(days=14)
"""Runs older than that are not looked at: none is active so long."""

PAGE_SIZE = 100


class TrainingPipeline:
    """The pipeline named after the loop, in the namespace where its runs execute."""

    def __init__(self, spec: LoopSpec, connection: Connection) -> None:
        self.name = pipeline_name(spec)
        self.connection = connection
        self._spec = spec
        self._pipeline_id: str | None = None
        self._found_namespace: str | None = None
        self._namespace_is_known = False

    @property
    def id(self) -> str:
        """The pipeline's id.

        Raises:
            PipelinesError: there is no such pipeline yet.
        """
        if self._pipeline_id is None:
            self._pipeline_id = self._find()
        if self._pipeline_id is None:
            raise PipelinesError(
                f"Kubeflow Pipelines at {self.connection.endpoint} has no pipeline {self.name} yet: "
                "`reviewloop pipeline upload` makes it."
            )
        return self._pipeline_id

    @property
    def link(self) -> str:
        """Where the dashboard shows the pipeline."""
        return self.connection.pipeline_link(self.id)

    def upload(self, package: Path, version: str, description: str) -> bool:
        """Add a version to the pipeline, which is made if it is not there yet; whether it was made.

        Raises:
            PipelinesError: there is a version of that name already, or the server refuses it.
        """
        api, made = self.connection, False
        if self._find() is None:
            try:
                api.call(
                    api.pipelines.pipeline_service_create_pipeline,
                    kfp_server_api.V2beta1Pipeline(display_name=self.name, namespace=self._namespace),
                )
                made = True
            except PipelinesError as error:
                if error.status != 409:  # Another upload was quicker.
                    raise
        try:
            api.call(
                api.uploads.upload_pipeline_version,
                str(package),
                name=version,
                description=description,
                pipelineid=self.id,
            )
        except PipelinesError as error:
            if error.status == 409:
                raise PipelinesError(
                    f"The pipeline {self.name} has a version {version} already. Upload again in a second."
                ) from None
            raise
        return made

    def versions(self, count: int) -> list[Any]:
        """The newest versions, newest first."""
        api = self.connection
        answer = api.call(
            api.pipelines.pipeline_service_list_pipeline_versions,
            self.id,
            page_size=count,
            sort_by="created_at desc",
        )
        return list(answer.pipeline_versions or [])

    def start(self, name: str, description: str) -> str:
        """Start a run of the newest version with its own defaults, and return the run's id.

        Raises:
            PipelinesError: there is no version yet, or the server refuses the run.
        """
        api = self.connection
        newest = next(iter(self.versions(1)), None)
        if newest is None:
            raise PipelinesError(f"The pipeline {self.name} has no version yet: `reviewloop pipeline upload` adds one.")
        run = api.call(
            api.runs.run_service_create_run,
            kfp_server_api.V2beta1Run(
                display_name=name,
                description=description,
                experiment_id=self._experiment(),
                pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
                    pipeline_id=self.id, pipeline_version_id=newest.pipeline_version_id
                ),
                runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters={}),
                service_account=self._spec.cluster.service_account,
            ),
        )
        return str(run.run_id)

    def run(self, run_id: str) -> Any:
        """One run, with the details of its steps."""
        api = self.connection
        return api.call(api.runs.run_service_get_run, run_id)

    def terminate(self, run_id: str) -> None:
        """Ask a run to end."""
        api = self.connection
        api.call(api.runs.run_service_terminate_run, run_id)

    def runs(self) -> Iterator[Any]:
        """The runs of any version in the last :data:`HISTORY`, whoever started them, newest first."""
        oldest = datetime.now(UTC) - HISTORY
        for run in self._list(self.connection.runs.run_service_list_runs, "runs", sort_by="created_at desc"):
            if run.created_at < oldest:
                return
            if self._is_ours(run):
                yield run

    def schedule(self, cron: str) -> int:
        """Make a run start at the times of ``cron``, instead of at those of all earlier schedules; how many there were.

        The new one is there before an old one goes, so that a failure between leaves the pipeline with a schedule; the
        next call tidies up. It starts whatever version is the newest then.
        """
        api = self.connection
        earlier = self.schedules()
        api.call(
            api.recurring_runs.recurring_run_service_create_recurring_run,
            kfp_server_api.V2beta1RecurringRun(
                display_name=f"{self.name}-schedule",
                description="Made by `reviewloop pipeline schedule`.",
                experiment_id=self._experiment(),
                pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=self.id),
                runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters={}),
                trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
                mode="ENABLE",
                max_concurrency="1",
                no_catchup=True,
                service_account=self._spec.cluster.service_account,
            ),
        )
        self._delete(earlier)
        return len(earlier)

    def unschedule(self) -> int:
        """Remove every schedule; how many there were."""
        schedules = self.schedules()
        self._delete(schedules)
        return len(schedules)

    def schedules(self) -> list[Any]:
        """The pipeline's recurring runs, whoever made them."""
        listing = self.connection.recurring_runs.recurring_run_service_list_recurring_runs
        return [recurring for recurring in self._list(listing, "recurring_runs") if self._is_ours(recurring)]

    def _list(self, operation: Callable[..., Any], field: str, **parameters: Any) -> Iterator[Any]:
        """Everything in the namespace that ``operation`` lists in ``field``, page by page."""
        token = ""
        while True:
            answer = self.connection.call(
                operation, namespace=self._namespace, page_size=PAGE_SIZE, page_token=token, **parameters
            )
            yield from getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def _delete(self, schedules: list[Any]) -> None:
        api = self.connection
        for schedule in schedules:
            try:
                api.call(api.recurring_runs.recurring_run_service_delete_recurring_run, schedule.recurring_run_id)
            except PipelinesError as error:
                if error.status != 404:  # Somebody else was quicker.
                    raise

    def _is_ours(self, run: Any) -> bool:
        reference = run.pipeline_version_reference
        return reference is not None and reference.pipeline_id == self.id

    def _find(self) -> str | None:
        api = self.connection
        # Where the API is elsewhere, this answers 404; afterwards that means that there is no pipeline.
        namespace = self._namespace
        try:
            pipeline = api.call(api.pipelines.pipeline_service_get_pipeline_by_name, self.name, namespace=namespace)
        except PipelinesError as error:
            if error.status == 404:
                return None
            raise
        return str(pipeline.pipeline_id)

    def _experiment(self) -> str:
        api, name = self.connection, self._spec.name
        found = self._find_experiment(name)
        if found is None:
            try:
                made = api.call(
                    api.experiments.experiment_service_create_experiment,
                    kfp_server_api.V2beta1Experiment(display_name=name, namespace=self._namespace),
                )
                return str(made.experiment_id)
            except PipelinesError as error:
                if error.status != 409:
                    raise
            found = self._find_experiment(name)
        return str(found)

    def _find_experiment(self, name: str) -> str | None:
        listing = self.connection.experiments.experiment_service_list_experiments
        found = (e for e in self._list(listing, "experiments") if e.display_name == name)
        return next((str(experiment.experiment_id) for experiment in found), None)

    @property
    def _namespace(self) -> str | None:
        """The runs' namespace as requests name it: only a multi-user server wants one, and it wants it always."""
        if not self._namespace_is_known:
            api, namespace = self.connection, self._spec.cluster.pipeline_namespace
            multi_user = bool(api.call(api.health.healthz_service_get_healthz).multi_user)
            if multi_user and not namespace:
                raise PipelinesError(
                    f"Kubeflow Pipelines at {api.endpoint} has several users, and runs belong to one's namespace: set "
                    "cluster.pipeline_namespace in the loop's file."
                )
            self._found_namespace = namespace if multi_user else None
            self._namespace_is_known = True
        return self._found_namespace
