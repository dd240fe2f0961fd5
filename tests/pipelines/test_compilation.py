"""The compiled pipeline: its steps, what it caches and retries, and that every setting of loop.yaml reaches it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipelines.compilation import compile_training_pipeline
from pipelines.images import Images
from reviewloop.errors import SpecError
from reviewloop.spec import FinetunePodSpec, LoopSpec, load_spec, parse_spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentiment.yaml"
IMAGES = Images("registry.example.com/components@sha256:c", "registry.example.com/serving@sha256:5")
STEPS = {"data-merge", "finetune", "evaluate", "register", "deploy"}

BEFORE: dict[str, Any] = {
    "name": "sentiment",
    "task": {"labels": ["bad", "good"]},
    "base_model": "some/model",
    "data": {"source": "movies.csv", "test_sets": {"amazon": "amazon.csv"}},
}


class Compiled:
    """The intermediate representation that a cluster would run."""

    def __init__(self, spec: LoopSpec, directory: Path) -> None:
        path = directory / "pipeline.yaml"
        compile_training_pipeline(spec, path, IMAGES)
        self.text = path.read_text(encoding="utf-8")
        self.ir, platform = yaml.safe_load_all(self.text)
        self.kubernetes = platform["platforms"]["kubernetes"]

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The pipeline's parameters."""
        return self.ir["root"]["inputDefinitions"]["parameters"]

    @property
    def defaults(self) -> dict[str, Any]:
        """Their default values."""
        return {name: parameter.get("defaultValue") for name, parameter in self.parameters.items()}

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Every step, also those inside conditions."""
        dags = [self.ir["root"]["dag"], *(c["dag"] for c in self.ir["components"].values() if "dag" in c)]
        found = {name: task for dag in dags for name, task in dag["tasks"].items()}
        return {name: task for name, task in found.items() if not name.startswith("condition-")}

    @property
    def constants(self) -> dict[str, Any]:
        """Inputs that are fixed at compilation, as ``step.input``."""
        return {
            f"{step}.{name}": value["runtimeValue"]["constant"]
            for step, task in self.tasks.items()
            for name, value in task["inputs"]["parameters"].items()
            if "runtimeValue" in value
        }


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The pipeline of the example loop."""
    return Compiled(load_spec(EXAMPLE), tmp_path_factory.mktemp("example") / "not" / "yet" / "there")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The pipeline of a loop where nearly everything is left to its default."""
    return Compiled(parse_spec(BEFORE), tmp_path_factory.mktemp("before"))


def test_the_pipeline_has_five_steps_in_their_order(example: Compiled) -> None:
    assert set(example.tasks) == STEPS
    fed_by = {
        step: {
            value["taskOutputArtifact"]["producerTask"]
            for value in task["inputs"].get("artifacts", {}).values()
            if "taskOutputArtifact" in value
        }
        | set(task.get("dependentTasks", []))
        for step, task in example.tasks.items()
    }
    assert "finetune" in fed_by["evaluate"]
    assert {"finetune", "evaluate"} <= fed_by["register"]
    conditions = [
        task["triggerPolicy"]["condition"]
        for dag in (example.ir["root"]["dag"], *(c["dag"] for c in example.ir["components"].values() if "dag" in c))
        for name, task in dag["tasks"].items()
        if name.startswith("condition-")
    ]
    assert [("== true" in c or "== 'promoted'" in c) for c in conditions] == [True, True]


def test_every_parameter_is_described(example: Compiled) -> None:
    assert {name for name, parameter in example.parameters.items() if not parameter.get("description")} == set()


def test_nothing_must_be_given(example: Compiled) -> None:
    assert [n for n, p in example.parameters.items() if "defaultValue" not in p and not p.get("isOptional")] == []
    assert example.defaults["registry_uri"] == "s3://reviewloop/sentiment"
    assert example.defaults["label_studio_url"] == "http://label-studio.reviewloop.svc:8080"


def test_the_defaults_are_those_of_the_loop(example: Compiled) -> None:
    spec = load_spec(EXAMPLE)
    defaults = example.defaults
    assert defaults["labels"] == list(spec.task.labels)
    assert defaults["probes"] == list(spec.probes)
    assert {n: defaults[n] for n in type(spec.training).model_fields} == spec.training.model_dump()
    for section in ("data", "review", "promotion"):
        model = getattr(spec, section)
        assert type(model).model_validate(defaults[section]) == model


def test_a_loop_that_leaves_everything_out_compiles_to_the_same_defaults(before: Compiled) -> None:
    spec = parse_spec(BEFORE)
    for section in ("data", "review", "promotion"):
        model = getattr(spec, section)
        assert type(model).model_validate(before.defaults[section]) == model
    assert before.constants["evaluate.base_test_set"] == "base"


def test_every_parameter_reaches_the_inputs_of_its_name_and_no_other(example: Compiled) -> None:
    fed = {
        (value["componentInputParameter"].removeprefix("pipelinechannel--"), name)
        for task in example.tasks.values()
        for name, value in task["inputs"]["parameters"].items()
        if "componentInputParameter" in value
    }
    assert {parameter for parameter, name in fed if parameter == name} == set(example.parameters)
    assert {(parameter, name) for parameter, name in fed if parameter != name} == {("register-Output", "version")}


def test_only_finetuning_is_cached_and_every_step_is_retried(example: Compiled) -> None:
    cached = {step for step, task in example.tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"finetune"}
    retries = {step: task["retryPolicy"] for step, task in example.tasks.items()}
    assert {step: retry["maxRetryCount"] for step, retry in retries.items()} == dict.fromkeys(STEPS, 2)
    assert retries["finetune"]["backoffDuration"] == "60s"
    assert retries["finetune"]["backoffFactor"] == 2.0


def test_every_step_runs_in_the_image_of_the_components(example: Compiled) -> None:
    containers = [executor["container"] for executor in example.ir["deploymentSpec"]["executors"].values()]
    assert {container["image"] for container in containers} == {IMAGES.components}
    assert example.constants["deploy.serving_image"] == IMAGES.serving


def test_fine_tuning_gets_the_pod_that_the_loop_asks_for(tmp_path: Path) -> None:
    pod = {
        "gpus": 2,
        "gpu_type": "amd.com/gpu",
        "cpu": "6",
        "memory": "40Gi",
        "shared_memory": "3Gi",
        "node_selector": {"gpu": "large"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "timeout_s": 777,
        "retries": 4,
        "retry_wait_s": 9,
    }
    compiled = Compiled(parse_spec(BEFORE | {"cluster": {"ttl_s": 1234, "finetune": pod}}), tmp_path)
    resources = compiled.ir["deploymentSpec"]["executors"]["exec-finetune"]["container"]["resources"]
    assert (resources["accelerator"]["resourceType"], resources["accelerator"]["resourceCount"]) == ("amd.com/gpu", "2")
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("6", "40Gi")
    settings = compiled.kubernetes["deploymentSpec"]["executors"]["exec-finetune"]
    assert settings["nodeSelector"] == {"labels": {"gpu": "large"}}
    assert settings["tolerations"] == pod["tolerations"]
    assert settings["activeDeadlineSeconds"] == "777"
    (shared,) = settings["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"], shared["sizeLimit"]) == ("/dev/shm", "Memory", "3Gi")
    assert compiled.tasks["finetune"]["retryPolicy"]["maxRetryCount"] == 4
    assert compiled.tasks["finetune"]["retryPolicy"]["backoffDuration"] == "9s"
    assert compiled.kubernetes["pipelineConfig"]["resourceTtlOnCompletion"] == 1234


def test_without_a_ttl_older_servers_understand_the_pods_settings(example: Compiled) -> None:
    # One before 2.17 does not know the field, and then ignores the whole document.
    assert set(example.kubernetes) == {"deploymentSpec"}


def test_each_step_gets_the_secrets_that_it_needs(tmp_path: Path) -> None:
    compiled = Compiled(parse_spec(BEFORE | {"cluster": {"secret": "of-the-team"}}), tmp_path)
    store = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
    for step in STEPS:
        (secret,) = compiled.kubernetes["deploymentSpec"]["executors"][f"exec-{step}"]["secretAsEnv"]
        assert secret["secretName"] == "of-the-team"
        names = {entry["envVar"] for entry in secret["keyToEnv"]}
        assert names == store | ({"LABEL_STUDIO_API_KEY"} if step == "data-merge" else set())


def test_no_secret_is_compiled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "very-secret-8531")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-8532")
    compiled = Compiled(load_spec(EXAMPLE), tmp_path)
    assert "very-secret" not in compiled.text
    assert not [name for name in compiled.parameters if "key" in name or "token" in name or "secret" in name]


def test_what_a_cluster_would_refuse_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="probes: expected at most 10,000 characters"):
        Compiled(parse_spec(BEFORE | {"probes": ["x" * 10_000]}), tmp_path)


def test_what_the_dashboard_draws_is_declared(example: Compiled) -> None:
    outputs = {
        step: {o["artifactType"]["schemaTitle"] for o in component["outputDefinitions"].get("artifacts", {}).values()}
        for step in STEPS
        if "outputDefinitions" in (component := example.ir["components"][f"comp-{step}"])
    }
    assert outputs["evaluate"] == {
        f"system.{kind}" for kind in ("Artifact", "Metrics", "ClassificationMetrics", "HTML", "Markdown")
    }
    assert {"system.Dataset", "system.Metrics"} == outputs["data-merge"]
    assert {"system.Model", "system.Metrics"} == outputs["finetune"]


ANOTHER_VALUE: dict[str, Any] = {
    "name": "intent",
    "task.type": "token-classification",
    "task.labels": ["bad", "fine", "good"],
    "base_model": "other/model",
    "data.name": "books",
    "data.source": "books.csv",
    "data.text_field": "body",
    "data.label_field": "stars",
    "data.machine_labels": True,
    "data.test_fraction": 0.33,
    "data.validation_fraction": 0.22,
    "data.test_sets": {"amazon": "other.csv"},
    "review.threshold": 0.5,
    "review.target_accuracy": 0.95,
    "review.audit_rate": 0.5,
    "review.annotations_per_task": 3,
    "training.epochs": 5.5,
    "training.learning_rate": 0.001,
    "training.batch_size": 7,
    "training.max_length": 99,
    "training.seed": 1,
    "retrain.min_new_annotations": 5,
    "promotion.test_set": "amazon",
    "promotion.confidence": 0.9,
    "promotion.min_gain": 0.01,
    "promotion.max_drop": 0.02,
    "promotion.max_class_drop": 0.2,
    "probes": ["Another probe."],
    "registry": "kubeflow://model-registry:8080",
    "cluster.namespace": "team",
    "cluster.pipeline_namespace": "team",
    "cluster.registry_uri": "s3://team/models",
    "cluster.label_studio_url": "https://labels.example.com",
    "cluster.deployment_mode": "Knative",
    "cluster.rollout_timeout_s": 60,
}
"""Another value than in BEFORE for each field that training depends on."""

ELSEWHERE = {
    # To the reviewers (tests/reviewloop/test_task_type_contract.py), the retrain trigger and a run's request.
    "task.instructions",
    "retrain.poll_s",
    "retrain.quiet_s",
    "cluster.service_account",
    # To the pods, in the tests above.
    "cluster.secret",
    "cluster.ttl_s",
    *(f"cluster.finetune.{name}" for name in FinetunePodSpec.model_fields),
}

CONSTANTS = {
    "name": {"data-merge.label_studio_project", "evaluate.loop_name", "register.loop_name", "deploy.model_name"},
    "task.type": {"data-merge.task_type", "finetune.task_type", "evaluate.task_type"},
    "data.name": {"evaluate.base_test_set"},
    "registry": {"register.model_registry", "deploy.model_registry"},
}
"""Where a field is fixed at compilation besides, or instead of, being a parameter's default."""


def changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The keys whose values differ."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


@pytest.mark.parametrize("field", ANOTHER_VALUE)
def test_a_setting_reaches_the_parameter_it_names_and_no_other(field: str, before: Compiled, tmp_path: Path) -> None:
    document = yaml.safe_load(yaml.safe_dump(BEFORE))
    *sections, last = field.split(".")
    place = document
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = ANOTHER_VALUE[field]
    after = Compiled(parse_spec(document), tmp_path)
    section = field.split(".")[0]
    changed_constants = CONSTANTS.get(field, set())
    if field in ("name", "task.type", "registry"):
        assert changed(before.defaults, after.defaults) == ({"registry_uri"} if field == "name" else set())
        name = "intent" if field == "name" else "sentiment"
        assert after.ir["pipelineInfo"]["name"] == f"{name}-training"
    elif section == "cluster":
        of_the_field = {"namespace": {"label_studio_url"}, "registry_uri": {last}, "label_studio_url": {last}}
        assert changed(before.defaults, after.defaults) == of_the_field.get(last, set())
        assert after.constants["deploy.cluster"][last] == ANOTHER_VALUE[field]
        changed_constants = {"deploy.cluster"}
    elif section in ("data", "review", "promotion"):
        assert changed(before.defaults, after.defaults) == {section}
        assert changed(before.defaults[section], after.defaults[section]) == {last}
        assert after.defaults[section][last] == ANOTHER_VALUE[field]
    else:
        assert changed(before.defaults, after.defaults) == {last}
        assert after.defaults[last] == ANOTHER_VALUE[field]
    assert changed(before.constants, after.constants) == changed_constants


def test_the_test_above_knows_every_setting() -> None:
    def fields(model: type[BaseModel], prefix: str = "") -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            found |= fields(field.annotation, f"{prefix}{name}.") if is_section else {prefix + name}  # type: ignore[arg-type]
        return found

    assert set(ANOTHER_VALUE) | ELSEWHERE == fields(LoopSpec)
