"""The one way a fine-tuned model is read and run: the predictor and the evaluation both use it.

Imports torch and transformers, which the rest of ``reviewloop`` does not; import it only where a model runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from scipy.special import expit
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reviewloop.errors import ModelLoadError
from reviewloop.records import Prediction
from reviewloop.task_types import TASK_TYPES, EncodedText, task_type

INFERENCE_FILE = "inference.json"
VERSION_FILE = "version.json"
UNREGISTERED = "unregistered"

LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)
"""What transformers raises for a directory whose files are missing, damaged, or do not fit each other."""

TOKEN_BUDGET = 1024
"""Padded tokens in one forward pass. On two CPU cores MiniLM is fastest at 500 to 1,500 (benchmarks/README.md)."""


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """What a model directory says, beside its weights, about how to turn logits into predictions.

    ``temperature`` divides the logits (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017);
    ``threshold`` is the confidence below which a prediction is reviewed. ``label_thresholds`` are the
    probabilities from which on each label holds, where a text may have several; empty elsewhere.
    """

    task: str
    labels: tuple[str, ...]
    max_length: int
    temperature: float
    threshold: float
    label_thresholds: tuple[float, ...] = ()

    def save(self, model_dir: Path) -> None:
        """Write these settings into ``model_dir``."""
        (model_dir / INFERENCE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Read the settings of ``model_dir``.

        Raises:
            ModelLoadError: the file is missing or incomplete.
        """
        path = model_dir / INFERENCE_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings = cls(
                task=str(content["task"]),
                labels=tuple(content["labels"]),
                max_length=int(content["max_length"]),
                temperature=float(content["temperature"]),
                threshold=float(content["threshold"]),
                label_thresholds=tuple(map(float, content["label_thresholds"])),
            )
            if settings.task not in TASK_TYPES:
                raise ValueError(f"there is no task type {settings.task!r}")
            return settings
        except FileNotFoundError:
            raise ModelLoadError(
                f"{path} is missing: expected a model directory written by the training pipeline."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ModelLoadError(f"{path} cannot be read: {error!r}. Train the model again.") from None


def inference_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run natively on ``device``; emulated ones are slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False) is True
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() is True


def length_sorted_batches(lengths: Sequence[int], token_budget: int = TOKEN_BUDGET) -> Iterator[list[int]]:
    """Split indices into batches of like length, each at most ``token_budget`` padded tokens (or one text).

    Sorting keeps padding low; a batch's cost is its longest text times its size.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class TextModel:
    """A fine-tuned model ready to predict: weights, tokenizer, task type, calibration, version."""

    def __init__(self, model_dir: Path, device: torch.device | None = None) -> None:
        """Load ``model_dir`` onto ``device`` (chosen when None), in bfloat16 where that runs natively.

        Raises:
            ModelLoadError: a file is missing or damaged, or labels and model outputs differ in number.
        """
        self.settings = InferenceSettings.load(model_dir)
        self.task = task_type(self.settings.task, self.settings.labels)
        self.version = _read_version(model_dir)
        self.device = device or inference_device()
        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
            model = getattr(transformers, self.task.auto_model).from_pretrained(
                model_dir,
                local_files_only=True,
                dtype=torch.bfloat16 if supports_bf16(self.device) else torch.float32,
            )
        except LOAD_ERRORS as error:
            raise ModelLoadError(f"{model_dir} is not a Hugging Face model directory: {error}") from error
        check_vocabulary(self._tokenizer, str(model_dir))
        if model.config.num_labels != len(self.task.outputs):
            raise ModelLoadError(
                f"{model_dir} has {model.config.num_labels} outputs, but {self.settings.task} with the "
                f"{len(self.settings.labels)} labels of {INFERENCE_FILE} needs {len(self.task.outputs)}. "
                "Train the model again."
            )
        if self.task.activation == "sigmoid" and len(self.settings.label_thresholds) != len(self.settings.labels):
            raise ModelLoadError(
                f"{INFERENCE_FILE} in {model_dir} has {len(self.settings.label_thresholds)} label_thresholds for "
                f"{len(self.settings.labels)} labels. Train the model again."
            )
        self._model = model.to(self.device).eval()
        self._pad_id = self._tokenizer.pad_token_id or 0

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text in windows of token ids. The tokenizer is not safe to share between threads."""
        return self.task.encode(self._tokenizer, texts, self.settings.max_length)

    def forward(self, windows: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        """Calibrated probabilities of each window of one padded batch: see :meth:`forward_logits`."""
        return _rows(self.calibrated(self._forward(windows)), windows)

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The calibrated probabilities that ``logits``, of any shape (..., outputs), mean."""
        scaled = logits / self.settings.temperature
        if self.task.activation == "sigmoid":
            return np.asarray(expit(scaled), dtype=np.float32)
        exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)

    def forward_logits(self, windows: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        """Uncalibrated logits of each window of one padded batch: shape (outputs,), or (tokens, outputs)."""
        return _rows(self._forward(windows), windows)

    def logits(self, encoded: Sequence[EncodedText]) -> list[list[NDArray[np.float32]]]:
        """Uncalibrated logits of each window of any number of texts."""
        return self._over_batches(encoded, self.forward_logits)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Predictions for any number of texts."""
        encoded = self.encode(texts)
        windows = self._over_batches(encoded, self.forward)
        return [self.prediction(text, probabilities) for text, probabilities in zip(encoded, windows, strict=True)]

    def prediction(self, encoded: EncodedText, probabilities: Sequence[NDArray[np.float32]]) -> Prediction:
        """The :class:`Prediction` for one text from what :meth:`forward` gives for each of its windows."""
        answer, score = self.task.predict(encoded, probabilities, self.settings.label_thresholds)
        return Prediction(answer, score, self.version, self.settings.threshold)

    def _forward(self, windows: Sequence[list[int]]) -> NDArray[np.float32]:
        longest = max(map(len, windows))
        ids = np.full((len(windows), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(windows), longest), dtype=np.int64)
        for row, tokens in enumerate(windows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
            )
        logits: NDArray[np.float32] = output.logits.float().cpu().numpy()
        return logits

    def _over_batches(
        self,
        encoded: Sequence[EncodedText],
        forward: Callable[[Sequence[list[int]]], list[NDArray[np.float32]]],
    ) -> list[list[NDArray[np.float32]]]:
        windows = [(text, ids) for text, one in enumerate(encoded) for ids in one.windows]
        results: dict[int, NDArray[np.float32]] = {}
        for batch in length_sorted_batches([len(ids) for _, ids in windows]):
            results.update(zip(batch, forward([windows[i][1] for i in batch]), strict=True))
        by_text: list[list[NDArray[np.float32]]] = [[] for _ in encoded]
        for number, (text, _) in enumerate(windows):
            by_text[text].append(results[number])
        return by_text


def _rows(batch: NDArray[np.float32], windows: Sequence[list[int]]) -> list[NDArray[np.float32]]:
    # One row a window, and where a row has tokens, without those of the padding.
    if batch.ndim == 2:
        return list(batch)
    return [row[: len(tokens)] for row, tokens in zip(batch, windows, strict=True)]


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, origin: str) -> None:
    """Refuse the empty tokenizer that transformers makes, without a word, where a directory holds none.

    Raises:
        ModelLoadError: every word would be unknown to it.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelLoadError(
            f"{origin} has no tokenizer: expected a tokenizer.json, or a vocabulary, beside the weights."
        )


def write_version(model_dir: Path, version: str) -> None:
    """Stamp ``model_dir`` with the registry's name for it."""
    (model_dir / VERSION_FILE).write_text(json.dumps({"version": version}) + "\n", encoding="utf-8")


def _read_version(model_dir: Path) -> str:
    path = model_dir / VERSION_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except FileNotFoundError:
        return UNREGISTERED
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error!r}. Register the model again.") from None
