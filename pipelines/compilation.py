"""Compile the training pipeline to the intermediate representation (IR YAML) a cluster runs."""

from pathlib import Path

from kfp import compiler

from pipelines.images import Images
from pipelines.training import training_pipeline
from reviewloop.errors import SpecError
from reviewloop.spec import LoopSpec

MAX_PARAMETER_LENGTH = 10_000
"""Characters that Kubeflow Pipelines takes in one parameter."""


def compile_training_pipeline(spec: LoopSpec, package_path: Path, images: Images) -> None:
    """Write the loop's training pipeline to ``package_path`` (``.yaml``).

    Raises:
        SpecError: a section of the loop is longer than a cluster takes.
    """
    for name, value in (("probes", spec.probes), ("task.labels", spec.task.labels), ("data", spec.data.test_sets)):
        if len(str(value)) > MAX_PARAMETER_LENGTH:
            raise SpecError(
                f"{name}: expected at most {MAX_PARAMETER_LENGTH:,} characters, the most Kubeflow Pipelines takes in "
                f"a parameter, got {len(str(value)):,}."
            )
    package_path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training_pipeline(spec, images), str(package_path))
