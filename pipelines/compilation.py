"""Compile the training pipeline to the intermediate representation (IR YAML) a cluster runs."""

from pathlib import Path

from kfp import compiler

from pipelines.training import training_pipeline
from reviewloop.spec import LoopSpec


def compile_training_pipeline(spec: LoopSpec, package_path: Path) -> None:
    """Write the loop's training pipeline to ``package_path`` (``.yaml``)."""
    package_path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training_pipeline(spec), str(package_path))
