"""A tiny randomly initialised BERT, in the format the pipeline writes, for tests where weights do not matter."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from reviewloop.inference import InferenceSettings, write_version

LABELS = ("negative", "neutral", "positive")
WORDS = (
    *("the", "a", "and", "or", "not", "is", "was", "it", "this", "that", "i", "you", "we", "very", "always", "never"),
    *("good", "bad", "great", "awful", "fine", "okay", "love", "hate", "like", "works", "broke", ".", ",", "!", "?"),
    *("film", "movie", "story", "acting", "screen", "phone", "battery", "price", "product", "cable"),
)


def write_tiny_encoder(path: Path, num_labels: int = len(LABELS), seed: int = 0) -> Path:
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
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def write_tiny_model(
    path: Path, version: str = "v0001", threshold: float = 0.9, seed: int = 0, temperature: float = 1.0
) -> Path:
    """A model directory that the predictor can serve."""
    write_tiny_encoder(path, seed=seed)
    InferenceSettings(labels=LABELS, max_length=64, temperature=temperature, threshold=threshold).save(path)
    write_version(path, version)
    return path
