"""Fast tokenizers of the kinds that differ in what characters they say a token stands for."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast

from tests.tiny_model import write_tiny_encoder

KINDS = ("wordpiece", "byte-level", "byte-level, spaces not trimmed", "metaspace")

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
CORPUS = ["Anna Berg from New York works for Acme, and the film was good!"] * 3


def fast_tokenizer(kind: str, directory: Path) -> Any:
    """A tiny tokenizer: like BERT's, RoBERTa's, ModernBERT's or DeBERTa's.

    To the byte-level ones a character beyond ASCII is several tokens; for the last two, the space before a word is
    part of its token.
    """
    if kind == "wordpiece":
        return BertTokenizerFast.from_pretrained(write_tiny_encoder(directory))
    if kind == "metaspace":
        return _with_space(_trained(pre_tokenizers.Metaspace(), []))
    trained = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet())
    if kind == "byte-level, spaces not trimmed":
        return _with_space(trained)
    model = json.loads(trained.to_str())["model"]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def _trained(pre_tokenizer: Any, alphabet: list[str]) -> Any:
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    size = len(SPECIAL) + len(alphabet) + 80
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _with_space(tokenizer: Any) -> Any:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
