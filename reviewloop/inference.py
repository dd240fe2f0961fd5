"""The one way a fine-tuned model is read and run: the predictor and the evaluation both use it.

Imports torch and transformers, which the rest of ``reviewloop`` does not; import it only where a model runs.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reviewloop.errors import ModelLoadError
from reviewloop.records import Prediction

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
    ``threshold`` is the confidence below which a prediction is reviewed.
    """

    labels: tuple[str, ...]
    max_length: int
    temperature: float
    threshold: float

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
            return cls(
                labels=tuple(content["labels"]),
                max_length=int(content["max_length"]),
                temperature=float(content["temperature"]),
                threshold=float(content["threshold"]),
            )
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


class TextClassifier:
    """A sequence classification model ready to predict: weights, tokenizer, calibration, version."""

    def __init__(self, model_dir: Path, device: torch.device | None = None) -> None:
        """Load ``model_dir`` onto ``device`` (chosen when None), in bfloat16 where that runs natively.

        Raises:
            ModelLoadError: a file is missing or damaged, or labels and model outputs differ in number.
        """
        self.settings = InferenceSettings.load(model_dir)
        self.version = _read_version(model_dir)
        self.device = device or inference_device()
        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                model_dir,
                local_files_only=True,
                dtype=torch.bfloat16 if supports_bf16(self.device) else torch.float32,
            )
        except LOAD_ERRORS as error:
            raise ModelLoadError(f"{model_dir} is not a Hugging Face model directory: {error}") from error
        check_vocabulary(self._tokenizer, str(model_dir))
        if model.config.num_labels != len(self.settings.labels):
            raise ModelLoadError(
                f"{model_dir} has {model.config.num_labels} outputs, but {INFERENCE_FILE} names "
                f"{len(self.settings.labels)} labels. Train the model again."
            )
        self._model = model.to(self.device).eval()
        self._pad_id = self._tokenizer.pad_token_id or 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at ``max_length``. The tokenizer is not safe to share between threads."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self.settings.max_length, return_attention_mask=False
        )
        return list(encoded["input_ids"])

    def forward(self, encoded: Sequence[list[int]]) -> NDArray[np.float32]:
        """Calibrated probabilities, shape (texts, labels), of one padded batch."""
        logits = self.forward_logits(encoded) / self.settings.temperature
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def forward_logits(self, encoded: Sequence[list[int]]) -> NDArray[np.float32]:
        """Uncalibrated logits, shape (texts, labels), of one padded batch."""
        longest = max(len(ids) for ids in encoded)
        ids = np.full((len(encoded), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(encoded), longest), dtype=np.int64)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
            )
        logits: NDArray[np.float32] = output.logits.float().cpu().numpy()
        return logits

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Uncalibrated logits, shape (texts, labels), of any number of texts."""
        encoded = self.encode(texts)
        result = np.zeros((len(encoded), len(self.settings.labels)), dtype=np.float32)
        for batch in length_sorted_batches([len(ids) for ids in encoded]):
            result[batch] = self.forward_logits([encoded[i] for i in batch])
        return result

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Calibrated probabilities, shape (texts, labels), of any number of texts."""
        encoded = self.encode(texts)
        result = np.zeros((len(encoded), len(self.settings.labels)), dtype=np.float32)
        for batch in length_sorted_batches([len(ids) for ids in encoded]):
            result[batch] = self.forward([encoded[i] for i in batch])
        return result

    def prediction(self, probabilities: NDArray[np.float32]) -> Prediction:
        """The :class:`Prediction` for one row of :meth:`forward`."""
        best = int(probabilities.argmax())
        return Prediction(
            label=self.settings.labels[best],
            score=float(probabilities[best]),
            probabilities=dict(zip(self.settings.labels, map(float, probabilities), strict=True)),
            model_version=self.version,
            threshold=self.settings.threshold,
        )


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
