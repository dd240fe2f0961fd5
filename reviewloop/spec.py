"""The loop spec: ``loop.yaml`` as one validated, frozen model from which everything else derives."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reviewloop.errors import SpecError
from reviewloop.task_types import TASK_TYPES
from reviewloop.task_types.text_classification import TextClassification

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
TestSetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _known_task_type(name: str) -> str:
    if name not in TASK_TYPES:
        raise ValueError(f"must be one of {', '.join(TASK_TYPES)}, got {name!r}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TaskSpec(_Section):
    """What is predicted and what reviewers are asked."""

    type: Annotated[str, AfterValidator(_known_task_type)] = Field(
        "text-classification", description="One label a text, any number of labels a text, or named entities."
    )
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="Label names, in the order of the model's outputs."
    )
    instructions: str = Field("", description="Shown to reviewers above the task; plain text.")

    @field_validator("labels")
    @classmethod
    def _labels_tell_texts_apart(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError(f"must differ from each other, got {', '.join(labels)}")
        if info.data.get("type") == TextClassification.name and len(labels) < 2:
            raise ValueError(f"must be at least two, to tell one from another, got {', '.join(labels)}")
        return labels


class DataSpec(_Section):
    """The base data and the test sets nothing may train on."""

    name: TestSetName = Field("base", description="Names the base data, and the test set split from it.")
    source: str | None = Field(
        None,
        description="A .csv or .jsonl file, a Label Studio export (.json), each also as s3://BUCKET/KEY, or "
        "hub:OWNER/DATASET[:SPLIT]. Left out, the reviews alone are trained on; without test_sets, a share of them "
        "is the test set.",
    )
    text_field: str = "text"
    label_field: str = "label"
    machine_labels: bool = Field(
        False, description="Whether predictions that `import --accept-above` took as labels are trained on too."
    )
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.9)] = Field(
        0.2, description="Share of the base data frozen, by content hash, as its test set."
    )
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.1, description="Share of what is not test, by content hash, that calibrates instead of training."
    )
    test_sets: dict[TestSetName, str] = Field(
        default_factory=dict, description="Further held-out test sets, name to file, same fields."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.name in self.test_sets:
            raise ValueError(f"test_sets must not repeat the data's own name, {self.name!r}")
        return self


class ReviewSpec(_Section):
    """What goes to people."""

    threshold: Probability | None = Field(
        None,
        description="Confidence below which a prediction is reviewed. Left out, every version gets its own: "
        "the lowest at which the predictions kept are right at least target_accuracy of the time.",
    )
    target_accuracy: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    audit_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.03, description="Share of the confident predictions reviewed too, without a pre-annotation."
    )
    annotations_per_task: Annotated[int, Field(ge=1, le=99)] = Field(
        1, description="How many reviewers answer each task."
    )


class TrainingSpec(_Section):
    """Fine-tuning settings, passed to transformers' Trainer."""

    epochs: Annotated[float, Field(gt=0.0, le=100.0)] = 3.0
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_length: Annotated[int, Field(ge=8, le=8192)] = Field(
        128, description="Tokens; longer texts are cut, and for token-classification read in overlapping windows."
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 7


class RetrainSpec(_Section):
    """When it is worth training again."""

    min_new_annotations: Annotated[int, Field(ge=0)] = Field(
        100, description="Training is skipped while fewer annotations are new since the last one."
    )
    poll_s: Annotated[float, Field(gt=0.0)] = Field(
        300.0, description="Seconds between the retrain trigger's looks at Label Studio."
    )
    quiet_s: Annotated[float, Field(ge=0.0)] = Field(
        600.0, description="Seconds without a new annotation before the retrain trigger starts a run."
    )


class PromotionSpec(_Section):
    """What a challenger must show before it replaces the champion."""

    test_set: TestSetName | None = Field(
        None, description="The test set on which it must be better; left out, the base data's own."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(
        0.95,
        description="Of the paired bootstrap interval of the difference in accuracy, or in F1 "
        "where a text may have several labels.",
    )
    min_gain: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        0.0, description="The interval's lower end must lie above this."
    )
    max_drop: Probability = Field(0.015, description="Accuracy (or F1) it may lose on any other test set.")
    max_class_drop: Probability = Field(
        0.1, description="F1 it may lose on any class with at least 30 test examples, on any test set."
    )


class Toleration(_Section):
    """A taint that the pod may be scheduled beside, as Kubernetes has it."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class FinetunePodSpec(_Section):
    """The pod that fine-tunes."""

    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of the pod; more than one train in parallel.")
    gpu_type: str = Field("nvidia.com/gpu", description="The resource that a GPU is.")
    cpu: str = Field("2", description="CPU requested, and its limit.")
    memory: str = Field("8Gi", description="Memory requested, and its limit.")
    shared_memory: str = Field("2Gi", description="Size of the memory-backed /dev/shm; a part of the memory.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that the node may have.")
    timeout_s: Annotated[int, Field(gt=0)] = Field(4 * 3600, description="Seconds until an attempt is ended.")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="Attempts after a failed one.")
    retry_wait_s: Annotated[int, Field(gt=0)] = Field(
        60, description="Seconds before the second attempt; before each further one, twice as many."
    )


class ClusterSpec(_Section):
    """Where the loop runs on Kubeflow; a laptop needs none of it."""

    namespace: KubernetesName = Field("reviewloop", description="Where the model serves, and Label Studio runs.")
    pipeline_namespace: KubernetesName | None = Field(
        None, description="Where runs execute: the profile's namespace on multi-user Kubeflow, else left out."
    )
    registry_uri: Annotated[str, Field(pattern=r"^s3://[^/]+(/.*)?$")] | None = Field(
        None, description="Where versions are kept; left out, s3://reviewloop/NAME."
    )
    label_studio_url: str | None = Field(
        None, description="Label Studio's address within the cluster; left out, that of its service in the namespace."
    )
    secret: KubernetesName = Field(
        "reviewloop-pipeline",
        description="The Secret, in the namespace of the runs, with LABEL_STUDIO_API_KEY and the AWS_* settings.",
    )
    service_account: KubernetesName = Field("reviewloop-pipeline", description="The runs' service account.")
    deployment_mode: Literal["Standard", "Knative"] = Field(
        "Standard", description="KServe's mode; Knative rolls out by shares of the traffic."
    )
    rollout_timeout_s: Annotated[int, Field(gt=0)] = Field(
        900, description="Seconds a new version may take to become ready before the previous one serves again."
    )
    ttl_s: Annotated[int, Field(gt=0)] | None = Field(
        None,
        description="Seconds a finished run's pods are kept; left out, as the server is set up. Needs Kubeflow "
        "Pipelines 2.17: an older one would drop all that the pipeline says of its pods, without a word.",
    )
    finetune: FinetunePodSpec = FinetunePodSpec()


class LoopSpec(_Section):
    """One human-in-the-loop fine-tuning loop."""

    name: str = Field(
        pattern=r"^[a-z]([-a-z0-9]{1,38}[a-z0-9])$",
        description="Names the served model, the Label Studio project and the pipeline.",
    )
    task: TaskSpec
    base_model: str = Field(min_length=1, description="A Hugging Face model directory (also s3://.../), or Hub name.")
    data: DataSpec
    review: ReviewSpec = ReviewSpec()
    training: TrainingSpec = TrainingSpec()
    retrain: RetrainSpec = RetrainSpec()
    promotion: PromotionSpec = PromotionSpec()
    registry: Annotated[str, Field(pattern=r"^kubeflow://[^/:]+:\d+$")] | None = Field(
        None, description="A Kubeflow Model Registry to register versions in too, as kubeflow://HOST:PORT."
    )
    cluster: ClusterSpec = ClusterSpec()
    probes: tuple[str, ...] = Field(
        ("This is a probe.",),
        min_length=1,
        description="Texts whose answers are recorded at evaluation and compared after a rollout.",
    )

    @property
    def cluster_registry_uri(self) -> str:
        """Where versions are kept on the cluster."""
        return self.cluster.registry_uri or f"s3://reviewloop/{self.name}"

    @property
    def cluster_label_studio_url(self) -> str:
        """Label Studio's address within the cluster; the full name, since runs may execute in another namespace."""
        return self.cluster.label_studio_url or f"http://label-studio.{self.cluster.namespace}.svc:8080"

    @model_validator(mode="after")
    def _promotion_names_a_test_set(self) -> Self:
        known = {*self.data.test_sets, *([self.data.name] if self.data.source or not self.data.test_sets else [])}
        if (self.promotion.test_set or self.data.name) not in known:
            raise ValueError(
                f"promotion.test_set must be one of {', '.join(sorted(known))}, got {self.promotion.test_set!r}"
            )
        return self


def parse_spec(document: Any, origin: str = "loop spec") -> LoopSpec:
    """Validate an already parsed document.

    Raises:
        SpecError: names every bad field, what was expected and what came.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{origin} must be a mapping of fields, got {type(document).__name__}.")
    try:
        return LoopSpec.model_validate(document)
    except ValidationError as error:
        problems = [_describe(e) for e in error.errors(include_url=False)]
        raise SpecError("\n".join([f"{origin} is not valid:", *(f"  {p}" for p in problems)])) from None


def load_spec(path: Path) -> LoopSpec:
    """Read and validate a ``loop.yaml``.

    Raises:
        SpecError: the file is missing, is not YAML, or has a bad field.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"There is no loop spec at {path}. Pass one with --loop; examples/sentiment.yaml is a start."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_spec(document, str(path))


def _describe(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "loop"
    if error["type"] == "missing":
        return f"{where}: expected a value, but the field is missing."
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field. Check its spelling and indentation."
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}."
    return f"{where}: {message[0].lower()}{message[1:]}, got {error['input']!r}."
