"""The training pipeline: data_merge -> finetune -> evaluate -> register -> deploy."""

from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes
from pydantic import BaseModel

from components.data_merge.component import data_merge
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.image import IMAGE_VARIABLE
from components.register.component import register
from pipelines.images import Images
from reviewloop.label_studio import API_KEY_VARIABLE
from reviewloop.spec import ClusterSpec, FinetunePodSpec, LoopSpec

IDLE_THREADS_SLEEP = ("OMP_WAIT_POLICY", "PASSIVE")
"""Torch's threads spin while they wait; on cores they do not have to themselves that is ten times slower."""

OBJECT_STORE_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
STEPS = ("data-merge", "finetune", "evaluate", "register", "deploy")


def pipeline_name(spec: LoopSpec) -> str:
    """What the loop's training pipeline is called on a cluster."""
    return f"{spec.name}-training"


def training_pipeline(spec: LoopSpec, images: Images | None = None) -> Callable[..., Any]:
    """The pipeline of one loop; the defaults of its parameters are the loop's spec.

    The same function is compiled for a cluster, with ``images``, and run by ``kfp.local``, which ignores what is said
    of pods and secrets.
    """

    @dsl.pipeline(
        name=pipeline_name(spec),
        pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=spec.cluster.ttl_s),
        description=f"Retrain {spec.name} on its base data and what reviewers answered; deploy it if it is better.",
    )
    def training(
        registry_uri: str = spec.cluster_registry_uri,
        label_studio_url: str = spec.cluster_label_studio_url,
        predictor_url: str = "",
        serving_dir: str = "",
        min_new_annotations: int = spec.retrain.min_new_annotations,
        base_model: str = spec.base_model,
        epochs: float = spec.training.epochs,
        learning_rate: float = spec.training.learning_rate,
        batch_size: int = spec.training.batch_size,
        max_length: int = spec.training.max_length,
        seed: int = spec.training.seed,
        data: dict = _section(spec.data),  # noqa: B008 - read once, when the pipeline is defined
        review: dict = _section(spec.review),  # noqa: B008
        promotion: dict = _section(spec.promotion),  # noqa: B008
        labels: list = list(spec.task.labels),  # noqa: B006
        probes: list = list(spec.probes),  # noqa: B006
    ) -> None:
        """Retrain a text model on its base data and what reviewers answered; deploy it if it is better.

        Args:
            registry_uri: Where versions are kept: file:///path or s3://bucket/prefix.
            label_studio_url: Label Studio's address; empty to train on the base data alone.
            predictor_url: A local predictor to deploy to; empty to deploy to the cluster.
            serving_dir: The directory that a local predictor reads its model from.
            min_new_annotations: Training is skipped while fewer annotations are new since the last version.
            base_model: Hugging Face model directory (also s3://.../) or Hub name to start from.
            epochs: Passes over the training data.
            learning_rate: Peak learning rate of AdamW.
            batch_size: Texts in one training step.
            max_length: Tokens of a text that are read; the rest is cut.
            seed: Seed of the new head, the order of the data and the bootstrap.
            data: Base data and test sets, as in the data section of loop.yaml.
            review: Review policy, as in the review section of loop.yaml.
            promotion: What a challenger must show, as in the promotion section of loop.yaml.
            labels: Label names in the order of the model's outputs.
            probes: Texts whose answers are recorded at evaluation and compared after the rollout.
        """
        data_merge_task = data_merge(
            data=data,
            task_type=spec.task.type,
            labels=labels,
            label_studio_url=label_studio_url,
            label_studio_project=spec.name,
            registry_uri=registry_uri,
            min_new_annotations=min_new_annotations,
        )
        # Conditions on named outputs are silently false in kfp.local: a component returns the one value it decides.
        data_merge_task.set_caching_options(False)  # Annotations change without any input changing.
        _set_up(data_merge_task, spec.cluster, images, reads_label_studio=True)
        with dsl.If(data_merge_task.outputs["Output"] == True, name="training is due"):  # noqa: E712
            finetune_task = finetune(
                dataset=data_merge_task.outputs["dataset"],
                base_model=base_model,
                task_type=spec.task.type,
                labels=labels,
                epochs=epochs,
                learning_rate=learning_rate,
                batch_size=batch_size,
                max_length=max_length,
                seed=seed,
                review=review,
            )
            finetune_task.set_env_variable(*IDLE_THREADS_SLEEP)
            _set_up_finetune(finetune_task, spec.cluster, images)
            evaluate_task = evaluate(
                dataset=data_merge_task.outputs["dataset"],
                model=finetune_task.outputs["model"],
                loop_name=spec.name,
                registry_uri=registry_uri,
                base_model=base_model,
                task_type=spec.task.type,
                labels=labels,
                promotion=promotion,
                base_test_set=spec.data.name,
                probes=probes,
                seed=seed,
            )
            evaluate_task.set_env_variable(*IDLE_THREADS_SLEEP)
            _set_up(evaluate_task, spec.cluster, images, memory="4Gi")
            evaluate_task.set_caching_options(False)  # The champion changes without any input changing.
            register_task = register(
                model=finetune_task.outputs["model"],
                evaluation=evaluate_task.outputs["evaluation"],
                report=evaluate_task.outputs["report"],
                registry_uri=registry_uri,
                model_registry=spec.registry or "",
                loop_name=spec.name,
            )
            _set_up(register_task, spec.cluster, images)
            register_task.set_caching_options(False)
            with dsl.If(evaluate_task.outputs["Output"] == "promoted", name="the challenger is better"):
                deploy_task = deploy(
                    version=register_task.outputs["Output"],
                    registry_uri=registry_uri,
                    model_name=spec.name,
                    predictor_url=predictor_url,
                    serving_dir=serving_dir,
                    cluster=_section(spec.cluster),
                    serving_image=images.serving if images else "",
                    model_registry=spec.registry or "",
                )
                _set_up(deploy_task, spec.cluster, images)
                deploy_task.set_caching_options(False)

    pipeline: Callable[..., Any] = training
    return pipeline


def _set_up(
    task: dsl.PipelineTask,
    cluster: ClusterSpec,
    images: Images | None,
    *,
    memory: str = "2Gi",
    reads_label_studio: bool = False,
) -> None:
    """A step's image and pod, and that it is tried again: what failed may be a service that is back in a minute."""
    _set_image(task, images)
    task.set_cpu_request("500m")
    task.set_memory_request("1Gi")
    task.set_memory_limit(memory)
    if images:  # Here, whoever runs it sees at once what failed, and need not wait for it to fail again.
        task.set_retry(num_retries=2, backoff_duration="30s", backoff_factor=2.0)
    _give_secrets(task, cluster, (API_KEY_VARIABLE,) if reads_label_studio else ())


def _set_up_finetune(task: dsl.PipelineTask, cluster: ClusterSpec, images: Images | None) -> None:
    pod: FinetunePodSpec = cluster.finetune
    _set_image(task, images)
    task.set_cpu_request(pod.cpu)
    task.set_cpu_limit(pod.cpu)
    task.set_memory_request(pod.memory)
    task.set_memory_limit(pod.memory)
    if pod.gpus:
        # One without the other is ignored.
        task.set_accelerator_type(pod.gpu_type)
        task.set_accelerator_limit(pod.gpus)
    for label, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pod.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    # Workers and GPUs exchange tensors through shared memory, of which a container has 64 MB by default.
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pod.shared_memory)  # noqa: S108
    kubernetes.set_timeout(task, pod.timeout_s)
    if images:
        task.set_retry(num_retries=pod.retries, backoff_duration=f"{pod.retry_wait_s}s", backoff_factor=2.0)
    _give_secrets(task, cluster)


def _set_image(task: dsl.PipelineTask, images: Images | None) -> None:
    if images:
        task.set_container_image(images.components)
        task.set_env_variable(IMAGE_VARIABLE, images.components)  # For the lineage.


def _give_secrets(task: dsl.PipelineTask, cluster: ClusterSpec, more: tuple[str, ...] = ()) -> None:
    # A key that is not there is no reason to leave a pod waiting for it: the step ends with a sentence that names it,
    # and a cluster that gives its service accounts credentials has no keys at all.
    variables = (*more, *OBJECT_STORE_VARIABLES)
    kubernetes.use_secret_as_env(task, cluster.secret, {name: name for name in variables}, optional=True)


def _section(section: BaseModel) -> dict[str, Any]:
    # KFP takes no None within a default, and reading the section back gives the same defaults.
    return section.model_dump(mode="json", exclude_none=True)
