"""The finetune step: dataset + base model -> a calibrated model directory."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from components.finetune.calibration import fit_temperature, fit_threshold
from reviewloop.dataset import read_split
from reviewloop.errors import DataError, ModelLoadError, SpecError
from reviewloop.inference import (
    LOAD_ERRORS,
    InferenceSettings,
    TextClassifier,
    check_vocabulary,
    inference_device,
    supports_bf16,
)
from reviewloop.records import Example
from reviewloop.spec import ReviewSpec, TrainingSpec

PROGRESS_LINES = 12


def finetune_model(
    dataset: Path,
    base_model: str,
    labels: tuple[str, ...],
    training: TrainingSpec,
    review: ReviewSpec,
    output: Path,
    report_progress: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on the dataset's training split, calibrate on its validation split, write the model to ``output``.

    Returns the scalar metrics of the training. Uses CUDA where there is one, and bfloat16 autocast where the
    processor has it.

    Raises:
        ModelLoadError: the base model cannot be loaded.
        SpecError: the base model cannot read texts as long as ``training.max_length``.
        DataError: a split is empty.
    """
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    if not train or not validation:
        raise DataError(f"Expected training and validation examples, got {len(train)} and {len(validation)}.")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # It reports the new, untrained head as if it were a mistake.
    tokenizer, model = _load(base_model, labels, training.max_length, training.seed)
    device = inference_device()
    report_progress(
        f"Fine-tuning on {len(train)} examples for {training.epochs:g} epochs "
        f"({device.type}, {'bf16' if supports_bf16(device) else 'fp32'})"
    )
    started = time.monotonic()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output / "trainer"),
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            per_device_train_batch_size=training.batch_size,
            seed=training.seed,
            warmup_steps=0.06,
            weight_decay=0.01,
            bf16=supports_bf16(device),
            use_cpu=device.type == "cpu",
            # Batches of like length waste little on padding.
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=device.type == "cuda",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=_tokenized(train, labels, tokenizer, training.max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[_Progress(report_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    shutil.rmtree(output / "trainer")  # Empty, since nothing is saved on the way.
    train_seconds = time.monotonic() - started

    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    settings = InferenceSettings(labels, training.max_length, temperature=1.0, threshold=1.0)
    settings.save(output)
    logits = TextClassifier(output).logits([e.text for e in validation])
    targets = np.array([labels.index(e.label) for e in validation])
    temperature = fit_temperature(logits, targets)
    threshold = (
        review.threshold
        if review.threshold is not None
        else fit_threshold(logits, targets, temperature, review.target_accuracy)
    )
    InferenceSettings(labels, training.max_length, temperature, threshold).save(output)
    accuracy = float((logits.argmax(axis=1) == targets).mean())
    report_progress(
        f"Trained in {train_seconds:.0f} s; validation accuracy {accuracy:.3f}, "
        f"temperature {temperature:.2f}, review threshold {threshold:.2f}"
    )
    return {
        "train_loss": float(result.training_loss),
        "train_seconds": train_seconds,
        "train_examples": float(len(train)),
        "validation_accuracy": accuracy,
        "temperature": temperature,
        "review_threshold": threshold,
    }


def _load(base_model: str, labels: tuple[str, ...], max_length: int, seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)  # The new head's weights are drawn here.
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        model = AutoModelForSequenceClassification.from_pretrained(
            base_model,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
        )
    except LOAD_ERRORS as error:
        raise ModelLoadError(
            f"The base model {base_model!r} cannot be loaded: {str(error).splitlines()[0]} Point base_model to a "
            "directory with config.json, the weights and the tokenizer, or to a name on a Hub you can reach."
        ) from error
    check_vocabulary(tokenizer, base_model)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", max_length))
    if max_length > longest:
        raise SpecError(f"training.max_length: expected at most {longest}, what {base_model} reads, got {max_length}.")
    return tokenizer, model


def _tokenized(examples: list[Example], labels: tuple[str, ...], tokenizer: Any, max_length: int) -> Dataset:
    encoded = tokenizer([e.text for e in examples], truncation=True, max_length=max_length)
    return Dataset.from_dict({**encoded, "labels": [labels.index(e.label) for e in examples]})


class _Progress(TrainerCallback):
    """A line now and then, since the step's output is read in a log."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = max(1, state.max_steps // PROGRESS_LINES)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            elapsed = time.monotonic() - self._started
            left = elapsed / state.global_step * (state.max_steps - state.global_step)
            self._report(f"step {state.global_step}/{state.max_steps}, about {left:.0f} s left")
