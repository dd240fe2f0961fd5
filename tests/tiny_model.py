"""A tiny BERT with random weights, in the format the pipeline writes, for tests where weights do not matter."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertTokenizerFast

from reviewloop.inference import InferenceSettings, write_version
from reviewloop.task_types import TaskType, task_type

LABELS = ("negative", "neutral", "positive")
WORDS = (
    *("the", "a", "and", "or", "not", "is", "was", "it", "this", "that", "i", "you", "we", "very", "always", "never"),
    *("good", "bad", "great", "awful", "fine", "okay", "love", "hate", "like", "works", "broke", ".", ",", "!", "?"),
    *("film", "movie", "story", "acting", "screen", "phone", "battery", "price", "product", "cable"),
)
LABEL_THRESHOLDS = (0.5, 0.8, 0.6)
"""From which probability on a tiny multi-label classification model says each label."""

ENTITY_WORDS = {"awful": "negative", "okay": "neutral", "great": "positive"}
"""What a tiny token classification model finds, and nothing else: each of these words is an entity."""


def write_tiny_encoder(
    path: Path, num_labels: int = len(LABELS), seed: int = 0, auto_model: str = "AutoModelForSequenceClassification"
) -> Path:
    """A Hugging Face model directory without anything of ours in it, as a base model would be."""
    path.mkdir(parents=True, exist_ok=True)
    letters = [c for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for c in (letter, f"##{letter}")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    (path / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(path / "vocab.txt"), model_max_length=128)
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=num_labels,
        initializer_range=0.5,
    )
    getattr(transformers, auto_model).from_config(config).save_pretrained(path)
    return path


def write_tiny_model(
    path: Path,
    version: str = "v0001",
    threshold: float = 0.9,
    seed: int = 0,
    temperature: float = 1.0,
    task: str = "text-classification",
) -> Path:
    """A model directory that the predictor can serve."""
    kind = task_type(task, LABELS)
    write_tiny_encoder(path, len(kind.outputs), seed, kind.auto_model)
    if task == "token-classification":
        _tag_entity_words(path, kind)
    label_thresholds = LABEL_THRESHOLDS if task == "multi-label-classification" else ()
    InferenceSettings(task, LABELS, 64, temperature, threshold, label_thresholds).save(path)
    write_version(path, version)
    return path


def _tag_entity_words(path: Path, task: TaskType) -> None:
    """Make the model tag :data:`ENTITY_WORDS`, surely enough that no rounding changes a tag."""
    tokenizer: Any = BertTokenizerFast.from_pretrained(path)
    model = getattr(transformers, task.auto_model).from_pretrained(path)
    words = model.bert.embeddings.word_embeddings.weight
    size = words.shape[1]
    with torch.no_grad():
        # A token's last hidden state becomes, nearly, its own embedding.
        for name, weights in model.bert.named_parameters():
            if "word_embeddings" not in name and "LayerNorm" not in name:
                weights *= 0.03
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.bias[0] = 15.0
        for word, label in ENTITY_WORDS.items():
            tag = task.outputs.index(f"B-{label}")
            own = words[tokenizer.convert_tokens_to_ids(word)]
            model.classifier.weight[tag] = torch.nn.functional.layer_norm(own, (size,)) * 20.0 / size
    model.save_pretrained(path)
