"""The finetune step: dataset + base model -> a calibrated model directory."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from components.finetune.calibration import (
    DEFAULT_LABEL_THRESHOLD,
    fit_label_thresholds,
    fit_temperature,
    fit_threshold,
)
from components.finetune.parallel import process_count
from reviewloop.dataset import read_split
from reviewloop.errors import DataError, ModelLoadError, SpecError
from reviewloop.inference import (
    LOAD_ERRORS,
    InferenceSettings,
    TextModel,
    check_vocabulary,
    inference_device,
    supports_bf16,
)
from reviewloop.object_store import local_copy
from reviewloop.records import Example
from reviewloop.spec import ReviewSpec, TrainingSpec
from reviewloop.task_types import TaskType
from reviewloop.task_types.base import IGNORED_TARGET

PROGRESS_LINES = 12


def finetune_model(
    dataset: Path,
    base_model: str,
    task: TaskType,
    training: TrainingSpec,
    review: ReviewSpec,
    output: Path,
    report_progress: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on the dataset's training split, calibrate on its validation split, write the model to ``output``.

    Returns the scalar metrics of the training. Uses CUDA where there is one, and bfloat16 autocast where the
    processor has it. In one of several processes that train together (:mod:`components.finetune.parallel`), all but
    the first return nothing, and write nothing.

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
    tokenizer, model = _load(base_model, task, training.max_length, training.seed)
    device = inference_device()
    processes = process_count()
    places = device.type if processes == 1 else f"{processes} x {device.type}"
    report_progress(
        f"Fine-tuning on {len(train)} examples for {training.epochs:g} epochs "
        f"({places}, {'bf16' if supports_bf16(device) else 'fp32'})"
    )
    started = time.monotonic()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output / "trainer"),
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            # A training step is one of all processes together: more of them learn the same, only sooner.
            per_device_train_batch_size=max(1, training.batch_size // processes),
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
        train_dataset=_tokenized(train, task, tokenizer, training.max_length),
        data_collator=getattr(transformers, task.collator)(tokenizer),
        callbacks=[_Progress(report_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    if not trainer.is_world_process_zero():
        return {}
    shutil.rmtree(output / "trainer")  # Empty, since nothing is saved on the way.
    train_seconds = time.monotonic() - started

    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    thresholds = (DEFAULT_LABEL_THRESHOLD,) * len(task.labels) if task.activation == "sigmoid" else ()
    settings = InferenceSettings(task.name, task.labels, training.max_length, 1.0, 1.0, thresholds)
    settings, accuracy = _calibrate(settings, validation, review, output)
    report_progress(
        f"Trained in {train_seconds:.0f} s; on validation data {accuracy:.3f} of the answers are right, "
        f"temperature {settings.temperature:.2f}, review threshold {settings.threshold:.2f}"
    )
    return {
        "train_loss": float(result.training_loss),
        "train_seconds": train_seconds,
        "train_examples": float(len(train)),
        "validation_accuracy": accuracy,
        "temperature": settings.temperature,
        "review_threshold": settings.threshold,
    }


def _calibrate(
    settings: InferenceSettings, validation: list[Example], review: ReviewSpec, output: Path
) -> tuple[InferenceSettings, float]:
    """Fit what turns logits into predictions, keep it in ``output``, and the share of answers that are all right."""
    settings.save(output)
    model = TextModel(output)
    task = model.task
    encoded = model.encode([e.text for e in validation])
    by_text = model.logits(encoded)
    windows = [window for text in by_text for window in text]
    rows = [target for e, text in zip(validation, encoded, strict=True) for target in task.targets(e.label, text)]
    logits = np.concatenate([np.atleast_2d(window) for window in windows])
    targets = np.concatenate([np.atleast_1d(row) for row in rows]) if task.activation == "softmax" else np.array(rows)
    counted = targets != IGNORED_TARGET if task.activation == "softmax" else slice(None)
    temperature = fit_temperature(logits[counted], targets[counted], task.activation)
    settings = replace(settings, temperature=temperature)
    if task.activation == "sigmoid":
        settings = replace(settings, label_thresholds=fit_label_thresholds(logits, targets, temperature))
    model.settings = settings
    predictions = [
        model.prediction(text, [model.calibrated(window) for window in given])
        for text, given in zip(encoded, by_text, strict=True)
    ]
    correct = np.array(
        [task.answered(p.answer) == e.label for p, e in zip(predictions, validation, strict=True)], dtype=bool
    )
    threshold = review.threshold
    if threshold is None:
        threshold = fit_threshold(np.array([p.score for p in predictions]), correct, review.target_accuracy)
    settings = replace(settings, threshold=threshold)
    settings.save(output)
    return settings, float(correct.mean())


def _load(base_model: str, task: TaskType, max_length: int, seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)  # The new head's weights are drawn here.
    with local_copy(base_model) as directory:
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory)
            model = getattr(transformers, task.auto_model).from_pretrained(
                directory,
                num_labels=len(task.outputs),
                id2label=dict(enumerate(task.outputs)),
                label2id={name: index for index, name in enumerate(task.outputs)},
                problem_type=task.problem_type,
                ignore_mismatched_sizes=True,
            )
        except LOAD_ERRORS as error:
            raise ModelLoadError(
                f"The base model {base_model!r} cannot be loaded: {str(error).splitlines()[0]} Point base_model to a "
                "directory with config.json, the weights and the tokenizer, or to a name on a Hub you can reach."
            ) from error
        base_outputs = AutoConfig.from_pretrained(directory).id2label
    check_vocabulary(tokenizer, base_model)
    _order_head(model, base_outputs, task.outputs)
    longest = min(tokenizer.model_max_length, _positions(model, max_length))
    if max_length > longest:
        raise SpecError(f"training.max_length: expected at most {longest}, what {base_model} reads, got {max_length}.")
    return tokenizer, model


def _order_head(model: Any, base_outputs: dict[int, str], outputs: tuple[str, ...]) -> None:
    """Put the outputs of a base model that knows our labels already into our order, instead of learning them anew."""
    places = {name: index for index, name in base_outputs.items()}
    if set(places) != set(outputs):
        return
    order = torch.tensor([places[name] for name in outputs])
    # The head is the one layer with as many outputs as there are labels and no layer behind it.
    head = next(m for m in reversed(list(model.modules())) if getattr(m, "out_features", None) == len(outputs))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[order])


def _positions(model: Any, default: int) -> int:
    """How many tokens the model has positions for; ``default`` if it does not say."""
    positions = int(getattr(model.config, "max_position_embeddings", default))
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the one of the padding.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    return positions


def _tokenized(examples: list[Example], task: TaskType, tokenizer: Any, max_length: int) -> Dataset:
    encoded = task.encode(tokenizer, [e.text for e in examples], max_length)
    windows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": target}
        for example, text in zip(examples, encoded, strict=True)
        for ids, target in zip(text.windows, task.targets(example.label, text), strict=True)
    ]
    return Dataset.from_list(windows)


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
