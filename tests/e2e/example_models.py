"""Base models of the architectures that the examples name, random and tiny, as they come from the Hub."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizerFast,
)

DSLIM_OUTPUTS = ("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
"""Those of dslim/bert-base-NER, in its order."""

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.05,
}


def write_distilbert(directory: Path, corpus: Iterable[str], positions: int = 512) -> Path:
    """Like distilbert-base-uncased: a masked language model, lower case."""
    tokenizer = _wordpiece(directory, corpus, lower_case=True)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        dim=SIZE["hidden_size"],
        n_layers=SIZE["num_hidden_layers"],
        n_heads=SIZE["num_attention_heads"],
        hidden_dim=SIZE["intermediate_size"],
        initializer_range=SIZE["initializer_range"],
    )
    DistilBertForMaskedLM(config).save_pretrained(directory)
    return directory


def write_roberta(directory: Path, corpus: Iterable[str], positions: int = 512) -> Path:
    """Like roberta-base: a masked language model over byte pairs, which counts its positions from 2 on."""
    trained: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(corpus, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = RobertaTokenizerFast(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], model_max_length=512
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=positions + 2, type_vocab_size=1, **SIZE)
    RobertaForMaskedLM(config).save_pretrained(directory)
    return directory


def write_bert(directory: Path, corpus: Iterable[str], positions: int = 512) -> Path:
    """Like bert-base-uncased."""
    tokenizer = _wordpiece(directory, corpus, lower_case=True)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **SIZE)
    BertForMaskedLM(config).save_pretrained(directory)
    return directory


def write_ner_bert(directory: Path, corpus: Iterable[str]) -> Path:
    """Like dslim/bert-base-NER: cased, with a head of its own whose labels are in another order than the loop's."""
    tokenizer = _wordpiece(directory, corpus, lower_case=False)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(DSLIM_OUTPUTS)),
        label2id={name: number for number, name in enumerate(DSLIM_OUTPUTS)},
        **SIZE,
    )
    BertForTokenClassification(config).save_pretrained(directory)
    return directory


def _wordpiece(directory: Path, corpus: Iterable[str], lower_case: bool) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted(
        {word for text in corpus for word, _ in split.pre_tokenize_str(text.lower() if lower_case else text)}
    )
    letters = [c for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for c in (letter, f"##{letter}")]
    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters])
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(
        vocab=str(directory / "vocab.txt"), do_lower_case=lower_case, strip_accents=lower_case, model_max_length=512
    )
    tokenizer.save_pretrained(directory)
    return tokenizer
