"""Token classification: named entities as character spans."""

import bisect
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from reviewloop.records import Label
from reviewloop.task_types.base import (
    COLOURS,
    CONTROL_NAME,
    HOTKEYS,
    IGNORED_TARGET,
    OBJECT_NAME,
    Claim,
    ClassScore,
    ConfusionMatrix,
    Consensus,
    Counts,
    EncodedText,
    Probabilities,
    Reading,
    TaskType,
    Tensor,
    render_config,
    text_view,
)

OUTSIDE = "O"
NO_ENTITY = "(no entity)"
OVERLAP = 4
"""Windows of a text longer than the model reads share a quarter (1 / OVERLAP) of their tokens."""

Span = tuple[int, int, str]
"""First character, the one after the last, and the label."""


class TokenClassification(TaskType):
    """A label is a list of entities ``{"start", "end", "label"}`` in the order of the text, which do not overlap.

    Positions count characters (Unicode code points), as Label Studio's do. The model tags its tokens in the BIO
    scheme (Ramshaw & Marcus, "Text Chunking using Transformation-Based Learning", 1995).
    """

    name = "token-classification"
    metric = "entity F1"
    auto_model = "AutoModelForTokenClassification"
    collator = "DataCollatorForTokenClassification"
    reads_to_end = True
    answer_fields = frozenset({"entities"})
    tensor_types = (("entities", "BYTES", [-1]),)

    def parse_label(self, value: Any, text: str) -> Label:
        if isinstance(value, str):
            try:
                value = json.loads(value or "[]")
            except json.JSONDecodeError:
                raise ValueError(f"expected a JSON list of entities, got {value!r}") from None
        if not isinstance(value, list):
            raise ValueError(f"expected a list of entities, got {value!r}")
        spans: list[Span] = []
        for entity in value:
            span, problem = self._span(entity, entity.get("label"), text) if isinstance(entity, dict) else (None, "")
            if span is None:
                raise ValueError(f"expected an entity with start, end and label, got {entity!r}. {problem}".strip())
            spans.append(span)
        spans.sort()
        for before, after in itertools.pairwise(spans):
            if after[0] < before[1]:
                raise ValueError(f"expected entities that do not overlap, got {before} and {after}")
        return _entities(spans)

    def names(self, label: Label) -> list[str]:
        return [entity["label"] for entity in label]

    def labeling_config(self, instructions: str) -> str:
        root, view = text_view(instructions)
        labels = ElementTree.Element("Labels", name=CONTROL_NAME, toName=OBJECT_NAME)
        root.insert(len(root) - 1, labels)
        for number, label in enumerate(self.labels):
            tag = ElementTree.SubElement(labels, "Label", value=label, background=COLOURS[number % len(COLOURS)])
            if number < len(HOTKEYS):
                tag.set("hotkey", HOTKEYS[number])
        ElementTree.SubElement(view, "Text", name=OBJECT_NAME, value="$text")
        return render_config(root)

    def annotation_result(self, label: Label, text: str) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{start}-{end}",
                "from_name": CONTROL_NAME,
                "to_name": OBJECT_NAME,
                "type": "labels",
                "value": {"start": start, "end": end, "text": text[start:end], "labels": [name]},
            }
            for start, end, name in _spans(label)
        ]

    def read_annotation(self, result: Sequence[dict[str, Any]], text: str) -> Reading:
        kept: list[Span] = []
        problems = []
        for region in result:
            if region.get("from_name") != CONTROL_NAME:
                continue
            value = region.get("value") or {}
            names = value.get("labels") or [None]
            span, problem = self._span(value, names[0] if len(names) == 1 else names, text)
            if span and any(span[0] < other[1] and other[0] < span[1] for other in kept):
                problem = f"region {span[0]}-{span[1]} overlaps another"
            if problem:
                problems.append(problem)
            elif span:
                kept.append(span)
        # Without the regions that had to be skipped, an empty list would say what nobody said.
        return Reading(None if problems and not kept else _entities(sorted(kept)), tuple(problems))

    def consensus(self, answers: Sequence[Label]) -> Consensus:
        if not answers:
            raise ValueError("consensus needs at least one answer")
        votes = Counter(span for answer in answers for span in _spans(answer))
        half = len(answers) / 2
        first = set(_spans(answers[0]))
        # No two of these overlap: more than half of the answers, or half and the first, would have to hold both.
        agreed = _entities(sorted(s for s, count in votes.items() if count > half or (count == half and s in first)))
        return Consensus(
            label=agreed,
            tied=any(count == half for count in votes.values()),
            agreement=sum(answer == agreed for answer in answers) / len(answers),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return (OUTSIDE, *(f"{prefix}-{label}" for label in self.labels for prefix in "BI"))

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> list[EncodedText]:
        """Each text in as many windows of ``max_length`` tokens as it needs."""
        encodings = [EncodedText(text, [], []) for text in texts]
        if not encodings:
            return []
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            stride=max_length // OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        windows = zip(
            encoded["overflow_to_sample_mapping"], encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
        for text, ids, offsets in windows:
            encodings[text].windows.append(ids)
            encodings[text].offsets.append([_without_space(texts[text], *place) for place in offsets])
        return encodings

    def targets(self, label: Label, encoded: EncodedText) -> list[Any]:
        spans = list(_spans(label))
        return [self._tags(spans, offsets, encoded.text) for offsets in encoded.offsets]

    def predict(
        self, encoded: EncodedText, probabilities: Sequence[Probabilities], thresholds: Sequence[float]
    ) -> tuple[dict[str, Any], float]:
        """Confidence is the lower of two: of the least certain entity, and of there being no other one.

        An entity's score is the least probability of its label among its tokens. The doubt about others is the
        highest probability of any label at a token that belongs to no entity.
        """
        places, rows = _joined(encoded.offsets, probabilities)
        entities: list[_Found] = []
        missed = 0.0
        if places:
            begins, insides = rows[:, 1::2], rows[:, 2::2]
            either = np.minimum(begins + insides, 1.0)  # A rounding error may take the sum beyond 1.
            best = either.argmax(axis=1)
            chosen = either[np.arange(len(best)), best]
            outside = rows[:, 0] >= chosen
            missed = float(chosen[outside].max(initial=0.0))
            current: _Found | None = None
            for token, (start, end) in enumerate(places):
                if outside[token]:
                    current = None
                    continue
                label, score = int(best[token]), float(chosen[token])
                begins_anew = begins[token, label] > insides[token, label]
                if current and current.label == label and (not begins_anew or start < current.end):
                    current.end, current.score = max(end, current.end), min(score, current.score)
                elif not entities or start >= entities[-1].end:
                    current = _Found(start, end, label, score)
                    entities.append(current)
        answer = {
            "entities": [
                {
                    "start": found.start,
                    "end": found.end,
                    "label": self.labels[found.label],
                    "text": encoded.text[found.start : found.end],
                    "score": found.score,
                }
                for found in entities
            ]
        }
        return answer, min([found.score for found in entities] + [1.0 - missed])

    def answered(self, answer: dict[str, Any]) -> Label:
        return _entities([(e["start"], e["end"], e["label"]) for e in answer["entities"]])

    def tensors(self, answers: Sequence[dict[str, Any]]) -> list[Tensor]:
        rows = [json.dumps(answer["entities"], ensure_ascii=False) for answer in answers]
        return [("entities", "BYTES", [len(answers)], rows)]

    def counts(self, truth: Label, predicted: Label) -> Counts:
        found = len(set(_spans(truth)) & set(_spans(predicted)))
        return Counts(found, len(predicted) - found, len(truth) - found)

    def claims(self, truth: Label, answer: dict[str, Any]) -> list[Claim]:
        true = set(_spans(truth))
        return [Claim(e["score"], (e["start"], e["end"], e["label"]) in true) for e in answer["entities"]]

    def class_scores(self, truths: Sequence[Label], predicted: Sequence[Label]) -> dict[str, ClassScore]:
        """By seqeval, in its strict mode: an entity counts only with its exact span and label."""
        from seqeval.metrics import classification_report
        from seqeval.scheme import IOB2

        # Their place instead of their name, which seqeval would take apart at hyphens.
        types = {label: str(number) for number, label in enumerate(self.labels)}
        pairs = [_aligned(truth, answer, types) for truth, answer in zip(truths, predicted, strict=True)]
        report = {}
        # Of no entity at all, seqeval takes the mean, and warns.
        if any(tag != OUTSIDE for pair in pairs for tags in pair for tag in tags):
            report = classification_report(
                [true for true, _ in pairs],
                [found for _, found in pairs],
                mode="strict",
                scheme=IOB2,
                output_dict=True,
                zero_division=0,
            )
        absent = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}
        scores = {label: report.get(number, absent) for label, number in types.items()}
        return {
            label: ClassScore(float(s["precision"]), float(s["recall"]), float(s["f1-score"]), int(s["support"]))
            for label, s in scores.items()
        }

    def confusion(self, truths: Sequence[Label], predicted: Sequence[Label]) -> ConfusionMatrix | None:
        pairs: Counter[tuple[str | None, str | None]] = Counter()
        for truth, answer in zip(truths, predicted, strict=True):
            true = {(start, end): label for start, end, label in _spans(truth)}
            found = {(start, end): label for start, end, label in _spans(answer)}
            pairs.update((true.get(span), found.get(span)) for span in true.keys() | found.keys())
        # A champion may know labels that the loop no longer has.
        others = {name for pair in pairs for name in pair if name is not None} - set(self.labels)
        names: list[str | None] = [*self.labels, *sorted(others), None]
        counts = [[pairs[row, column] for column in names] for row in names]
        return ConfusionMatrix([NO_ENTITY if name is None else name for name in names], counts)

    def _span(self, place: dict[str, Any], label: Any, text: str) -> tuple[Span | None, str]:
        """The span at ``place`` in ``text``, or None and why there is none."""
        start, end = place.get("start"), place.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            return None, f"region {start!r}-{end!r} has no whole numbers for its ends"
        if not 0 <= start < end <= len(text):
            return None, f"region {start}-{end} lies outside the text of {len(text)} characters"
        if label not in self.labels:
            return None, f"unknown label {label!r}"
        return (start, end, label), ""

    def _tags(self, spans: list[Span], offsets: Sequence[tuple[int, int]], text: str) -> list[int]:
        tags = []
        begun: set[Span] = set()
        for start, end in offsets:
            if start == end:
                tags.append(IGNORED_TARGET)
                continue
            span = next((s for s in spans if s[0] < end and start < s[1]), None)
            if span is None:
                tags.append(0)
                continue
            # Tokens leave out white space that a reviewer may have marked at the beginning.
            first = span[0] + len(text[span[0] : span[1]]) - len(text[span[0] : span[1]].lstrip())
            begins = start <= first and span not in begun
            begun.add(span)
            tags.append(1 + 2 * self.labels.index(span[2]) + (not begins))
        return tags


@dataclass(slots=True)
class _Found:
    start: int
    end: int
    label: int
    score: float


def _spans(label: Label) -> Iterator[Span]:
    return ((entity["start"], entity["end"], entity["label"]) for entity in label)


def _entities(spans: Sequence[Span]) -> list[dict[str, Any]]:
    return [{"start": start, "end": end, "label": label} for start, end, label in spans]


def _joined(
    offsets: Sequence[Sequence[tuple[int, int]]], probabilities: Sequence[Probabilities]
) -> tuple[list[tuple[int, int]], NDArray[np.float32]]:
    """The tokens of all windows once each, special ones left out, with their probabilities.

    Where two windows overlap, each gives the half that it sees more of the surroundings of.
    """
    places: list[tuple[int, int]] = []
    rows: list[Probabilities] = []
    for window, values in zip(offsets, probabilities, strict=True):
        tokens = [index for index, (start, end) in enumerate(window) if start != end]
        own = [window[index] for index in tokens]
        shared = _shared(places, own)
        keep, skip = len(places) - shared // 2, shared - shared // 2
        places = places[:keep] + own[skip:]
        rows = rows[:keep] + [values[index] for index in tokens[skip:]]
    return places, np.array(rows, dtype=np.float32)


def _shared(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> int:
    """How many tokens at the end of one window are those at the start of the next.

    Positions alone do not tell: a character may be several tokens, of which only some are shared.
    """
    first = bisect.bisect_left(before, after[0]) if after else len(before)
    while before[first:] != after[: len(before) - first]:
        first += 1
    return len(before) - first


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """The place of a token without the white space at its ends, which many tokenizers count as part of it."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _aligned(truth: Label, predicted: Label, types: dict[str, str]) -> tuple[list[str], list[str]]:
    """Both as BIO tags of the same pieces of text: those between any two ends of entities."""
    true, found = ([s for s in _spans(label) if s[2] in types] for label in (truth, predicted))
    ends = sorted({end for start, stop, _ in (*true, *found) for end in (start, stop)})
    tags = [[OUTSIDE] * max(1, len(ends)) for _ in range(2)]
    for spans, row in zip((true, found), tags, strict=True):
        for start, stop, label in spans:
            pieces = range(ends.index(start), ends.index(stop))
            for piece in pieces:
                row[piece] = f"{'B' if piece == pieces[0] else 'I'}-{types[label]}"
    return tags[0], tags[1]
