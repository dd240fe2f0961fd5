"""Each example for a user's own data goes round, with a tiny base model of the architecture that it names."""

import csv
import itertools
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForTokenClassification, AutoTokenizer

from components.data_merge.merge import merge_data
from components.finetune.train import finetune_model
from local.task_import import Champion, ImportResult, TaskImport
from pipelines.local_run import PipelineFailed, run_training_pipeline
from reviewloop import dataset
from reviewloop.errors import DataError, ModelLoadError, SpecError
from reviewloop.inference import TextModel
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.object_store import open_store
from reviewloop.records import Example, Label
from reviewloop.registry import Registry
from reviewloop.spec import LoopSpec, ReviewSpec, TrainingSpec, load_spec, parse_spec
from reviewloop.task_files import read_tasks
from reviewloop.task_types import TaskType, task_type
from tests.conftest import LabelStudioProcess
from tests.e2e.conftest import ROOT
from tests.e2e.example_models import DSLIM_OUTPUTS, write_bert, write_distilbert, write_ner_bert, write_roberta
from tests.reviewloop.conftest import RestApi
from tests.serving.processes import Server, running

EXAMPLES = ROOT / "examples"
SIZES = {"epochs": 20, "learning_rate": 3e-3, "batch_size": 8}
"""What a random model of 32 dimensions needs, instead of what a pre-trained one does."""


def example(name: str, base_model: Path, source: Path | None = None, **sizes: Any) -> LoopSpec:
    """The example as it stands, on another base model, with data that are here, and small."""
    document = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    document["base_model"] = str(base_model)
    if source:
        document["data"]["source"] = str(source)
    document["training"] |= SIZES | sizes
    return parse_spec(document)


class Loop:
    """One example's pipeline, and everything it said."""

    def __init__(self, spec: LoopSpec, directory: Path, **arguments: str) -> None:
        self.spec = spec
        self.directory = directory
        self.arguments = {"registry_uri": (directory / "registry").as_uri(), "label_studio_url": ""} | arguments
        self.registry = Registry(self.arguments["registry_uri"])
        self.lines: list[str] = []

    def run(self, **arguments: Any) -> None:
        """Run it once."""
        self.lines.clear()
        run_training_pipeline(
            self.spec,
            self.arguments | arguments,
            pipeline_root=self.directory / "pipeline",
            log=self.directory / "training.log",
            report_progress=lambda step, line: self.lines.append(line),
        )

    def measured(self, version: str) -> dict[str, Any]:
        """What the evaluation found on the loop's own test set."""
        found: dict[str, Any] = self.registry.manifest(version).evaluation["test_sets"][self.spec.data.name]
        return found

    def model(self, version: str) -> TextModel:
        """The model as it is registered."""
        path = self.directory / "fetched" / version
        self.registry.fetch_model(version, path)
        return TextModel(path)

    def datasets(self) -> list[Path]:
        """What data-merge made, oldest run first."""
        return sorted((self.directory / "pipeline").glob("*/data-merge/dataset"))


@contextmanager
def serving_loop(spec: LoopSpec, directory: Path, **arguments: str) -> Iterator[tuple[Loop, Server]]:
    """The loop with a real predictor to deploy to."""
    serving = directory / "serving"
    serving.mkdir(parents=True)
    model = ("--model_dir", serving / "current", "--model_name", spec.name)
    server = Server("serving.predictor", *model, log=directory / "predictor.log")
    with running(server):
        yield Loop(spec, directory, predictor_url=server.url, serving_dir=str(serving), **arguments), server


def served(server: Server, spec: LoopSpec, *texts: str) -> list[dict[str, Any]]:
    """The V1 predictions of the loop's model."""
    response = server.post(f"/v1/models/{spec.name}:predict", {"instances": list(texts)})
    assert response.status_code == 200, response.text
    return list(response.json()["predictions"])


# Data in the examples' formats.

NOUNS = ("film", "story", "acting", "phone", "battery", "cable", "price", "music", "ending", "screen")
VERDICTS = {
    "negative": ("awful", "Bad", "broken"),
    "neutral": ("okay", "Fine", "average"),
    "positive": ("great", "Good", "lovely"),
}
TOPICS = {
    "billing": "I was charged twice",
    "delivery": "My parcel never arrived",
    "product quality": "The lid is cracked",
    "account": "I cannot log in",
    "praise": "You are wonderful",
}
NAMES = {
    "PER": ("Ada Lovelace", "Charles Babbage", "Grace Hopper", "Alan Turing", "Mary"),
    "ORG": ("Acme Corp", "Bletchley Works", "Navy", "Initech", "Lyons"),
    "LOC": ("London", "New York", "Paris", "Turin", "Oslo"),
    "MISC": ("German", "Olympics", "French", "Swiss", "Analytical Engine"),
}
FRAMES = (
    "{PER} works for {ORG} in {LOC} .",
    "{ORG} moved from {LOC} to {LOC} .",
    "The {MISC} visitor met {PER} at {ORG} .",
    "{PER} and {PER} saw the {MISC} in {LOC} .",
    "Nobody was there at all .",
)


def verdicts(labels: tuple[str, ...], count: int) -> list[Example]:
    """Sentences whose last word decides."""
    sentences = [
        Example(f"{start} {noun} we {verb} was {word}", label, "toy")
        for label in labels
        for start, noun, verb, word in itertools.product(
            ("The", "That"), NOUNS, ("saw", "wanted", "got"), VERDICTS[label]
        )
    ]
    return random.Random(0).sample(sentences, count)


def messages(count: int) -> list[Example]:
    """One to three of the topics each, or none."""
    draw = random.Random(0)
    found: dict[str, Example] = {}
    while len(found) < count:
        about = draw.sample(list(TOPICS), draw.choice((0, 1, 1, 2, 3)))
        noun = draw.choice(NOUNS)
        text = ". ".join([f"It is about the {noun} number {draw.randrange(90)}", *(TOPICS[topic] for topic in about)])
        found[text] = Example(text, [topic for topic in TOPICS if topic in about], "toy")
    return list(found.values())


def reports(count: int) -> list[Example]:
    """Texts with names, of which some are two words, and with the place of each."""
    draw = random.Random(0)
    found: dict[str, Example] = {}
    while len(found) < count:
        text, entities = f"Note {len(found)} :", []
        for piece in draw.choice(FRAMES).split():
            name = draw.choice(NAMES[piece[1:-1]]) if piece.startswith("{") else piece
            if piece.startswith("{"):
                entities.append({"start": len(text) + 1, "end": len(text) + 1 + len(name), "label": piece[1:-1]})
            text += f" {name}"
        found[text] = Example(text, entities, "toy")
    return list(found.values())


def write_csv(path: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> Path:
    """A table with these columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
    return path


def correct_share(model: TextModel, examples: list[Example]) -> float:
    """How many of the answers are all right."""
    answers = [model.task.answered(p.answer) for p in model.predict([e.text for e in examples])]
    return sum(answer == e.label for answer, e in zip(answers, examples, strict=True)) / len(examples)


# The examples.


def test_film_reviews_as_the_hub_gives_them_train_a_distilbert(tmp_path: Path) -> None:
    labels = ("negative", "positive")
    examples = verdicts(labels, 240)
    source = tmp_path / "imdb.jsonl"
    rows = [{"text": e.text.replace(" we ", " <br /><br />we "), "label": labels.index(e.label)} for e in examples]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = write_distilbert(tmp_path / "distilbert", [row["text"] for row in rows])  # type: ignore[misc]
    spec = example("imdb-distilbert.yaml", base, source)
    with serving_loop(spec, tmp_path / "loop") as (loop, server):
        loop.run()
        assert loop.registry.champion() == "v0001"
        assert loop.measured("v0001")["challenger"]["score"] > 0.9
        model = loop.model("v0001")
        assert (model.settings.threshold, model.settings.max_length) == (0.7, 256)
        shouted, said = (model.predict([text])[0].answer for text in ("THE FILM WAS GREAT", "the film was great"))
        assert shouted == said
        answer = served(server, spec, "the film we saw was great")[0]
        assert (answer["label"], answer["model_version"]) == ("positive", "v0001")


def test_product_reviews_from_a_table_train_a_roberta(tmp_path: Path) -> None:
    examples = verdicts(("negative", "neutral", "positive"), 300)
    rows = [(e.text, e.label) for e in examples]
    source = write_csv(tmp_path / "product-reviews.csv", ("review", "rating"), rows)
    spec = example(
        "product-reviews-roberta.yaml", write_roberta(tmp_path / "roberta", (e.text for e in examples)), source
    )
    with serving_loop(spec, tmp_path / "loop") as (loop, server):
        loop.run()
        assert loop.measured("v0001")["challenger"]["score"] > 0.8
        model = loop.model("v0001")
        assert model.settings.threshold == 0.9
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "loop" / "fetched" / "v0001")
        assert tokenizer.tokenize("The Good") != tokenizer.tokenize("the good")
        answer = served(server, spec, examples[0].text)[0]
        assert answer["label"] == model.task.answered(model.predict([examples[0].text])[0].answer)


def test_messages_about_several_things_train_a_model_that_finds_all_of_them_or_none(tmp_path: Path) -> None:
    examples = messages(260)
    rows = [(e.text, "|".join(e.label)) for e in examples]
    source = write_csv(tmp_path / "topics.csv", ("text", "label"), rows)
    spec = example("topics-multilabel.yaml", write_bert(tmp_path / "bert", (e.text for e in examples)), source)
    with serving_loop(spec, tmp_path / "loop") as (loop, server):
        loop.run()
        assert loop.measured("v0001")["challenger"]["score"] > 0.8
        model = loop.model("v0001")
        assert len(model.settings.label_thresholds) == len(TOPICS)
        assert correct_share(model, examples) > 0.7
        nothing, everything = served(
            server,
            spec,
            "It is about the film number 7",
            ". ".join(["It is about the film number 7", *TOPICS.values()]),
        )
        assert len(nothing["labels"]) < len(everything["labels"])
        assert set(everything["probabilities"]) == set(TOPICS)


def regions(task: TaskType, label: Label, text: str) -> list[dict[str, Any]]:
    return [region | {"origin": "manual"} for region in task.annotation_result(label, text)]


def exported(task: TaskType, number: int, truth: Example, annotated: bool) -> dict[str, Any]:
    """A pre-labelled task as another Label Studio exports it, wrong at its first entity."""
    guess = [e | {"label": "MISC" if e["label"] == "PER" else "PER"} for e in truth.label[:1]] + truth.label[1:]
    answer = {"id": 900 + number, "completed_by": 7, "result": regions(task, truth.label, truth.text)}
    return {
        "id": 100 + number,
        "data": {"text": truth.text},
        "predictions": [
            {"model_version": "other", "score": 0.5 + number / 1000, "result": regions(task, guess, truth.text)}
        ],
        "annotations": [answer] if annotated else [],
        "meta": {"customer": number},
    }


def test_corrected_entities_alone_train_a_cased_bert_and_more_of_them_a_better_one(
    tmp_path: Path, s3: str, label_studio: LabelStudioProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    truths = reports(260)
    base = write_ner_bert(tmp_path / "ner-bert", (e.text for e in truths))
    spec = example("ner-bert.yaml", base)
    assert spec.data.source is None
    task = task_type(spec.task.type, spec.task.labels)
    bucket = f"{s3}/prelabelled"
    for part, start in enumerate(range(0, 260, 130)):
        tasks = [exported(task, n, truths[n], annotated=n < 70) for n in range(start, start + 130)]
        open_store(bucket).write(f"part-{part}.json", json.dumps(tasks).encode())

    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    server = LabelStudioServer(label_studio.url, label_studio.api_key)
    server.ensure_project(spec.name, task, spec.task.instructions, spec.review.annotations_per_task)
    project = ReviewProject(label_studio.url, label_studio.api_key, spec.name, task)
    reviewer = server.ensure_reviewers(["corrects@example.com"])["corrects@example.com"]
    answers = {e.text: e.label for e in truths}

    def correct(count: int) -> None:
        with ThreadPoolExecutor(3) as pool:
            for task_id, text in itertools.islice(list(project.open_tasks()), count):
                pool.submit(project.annotate, task_id, text, answers[text], reviewer)

    with serving_loop(spec, tmp_path / "loop", label_studio_url=label_studio.url) as (loop, predictor):
        result = ImportResult()
        TaskImport(server, project, loop.registry).run(read_tasks(f"{bucket}/", task, result.problems), result)
        assert (result.imported, result.problems.summary()) == (260, {})
        correct(70)
        loop.run(epochs=1.0)  # A parameter of the run: this first model learns next to nothing.
        assert "No version exists yet: training the first one." in loop.lines
        correct(120)
        loop.run()
        assert "120 annotations are new since v0001: training." in loop.lines

        # The report compares the two, on texts that neither was trained on.
        measured = loop.measured("v0002")
        assert measured["difference"]["low"] > 0
        assert measured["challenger"]["score"] > 0.8
        assert loop.registry.manifest("v0002").lineage.parent == "v0001"
        report = loop.registry.report("v0002").decode()
        assert "v0001" in report
        assert "entity F1" in report
        first, second = loop.datasets()
        tested = {e.text for e in dataset.read_test_set(second, "corrected")}
        assert {e.text for e in dataset.read_test_set(first, "corrected")} < tested
        assert not tested & {e.text for e in dataset.read_split(first, "train")}

        answer = served(predictor, spec, "Note 3 : Ada Lovelace works for Acme Corp in London .")[0]
        assert answer["model_version"] == "v0002"
        assert [(e["text"], e["label"]) for e in answer["entities"]] == [
            ("Ada Lovelace", "PER"),
            ("Acme Corp", "ORG"),
            ("London", "LOC"),
        ]
        # What comes next is pre-labelled by the version that serves.
        text = "Note 7 : Ada Lovelace and Alan Turing saw the Olympics in Oslo ."
        source = tmp_path / "later.jsonl"
        source.write_text(json.dumps({"text": text}), encoding="utf-8")
        champion, result = Champion(predictor.url, spec.name), ImportResult()
        TaskImport(server, project, loop.registry).run(read_tasks(str(source), task, result.problems), result, champion)
        ((task_id, _),) = project.open_tasks()
        (guess,) = RestApi(label_studio).get(f"/api/tasks/{task_id}")["predictions"]
        found = task.read_annotation(guess["result"], text).label
        assert found == task.answered(served(predictor, spec, text)[0])
        assert found

        model = loop.model("v0002")
        assert correct_share(model, truths) > 0.8
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "loop" / "fetched" / "v0002")
        assert tokenizer.tokenize("London") == ["London"]
        assert tokenizer.tokenize("london") != ["london"]


# What no example may depend on.


@pytest.mark.parametrize("write", [write_bert, write_distilbert, write_roberta])
def test_a_model_is_trained_on_as_many_tokens_as_it_has_positions_for_and_not_on_one_more(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    labels = ("negative", "positive")
    task = task_type("text-classification", labels)
    examples = [Example(f"{e.text} {'and so on ' * 30}", e.label, "toy") for e in verdicts(labels, 24)]
    dataset.write_split(tmp_path, "train", examples[:16])
    dataset.write_split(tmp_path, "validation", examples[16:])
    base = str(write(tmp_path / "base", (e.text for e in examples), positions=64))

    def train(max_length: int) -> None:
        training = TrainingSpec(epochs=1, batch_size=8, max_length=max_length)
        finetune_model(tmp_path, base, task, training, ReviewSpec(), tmp_path / "model", report_progress=lambda _: None)

    train(64)
    model = TextModel(tmp_path / "model")
    (encoded,) = model.encode([examples[0].text])
    assert len(encoded.windows[0]) == 64
    assert model.predict([examples[0].text])[0].answer["label"] in labels
    with pytest.raises(SpecError) as caught:
        train(65)
    assert str(caught.value) == f"training.max_length: expected at most 64, what {base} reads, got 65."


def test_a_base_model_that_knows_the_labels_in_another_order_keeps_what_it_knows(tmp_path: Path) -> None:
    examples = reports(40)
    spec = example("ner-bert.yaml", write_ner_bert(tmp_path / "base", (e.text for e in examples)))
    task = task_type(spec.task.type, spec.task.labels)
    assert task.outputs != DSLIM_OUTPUTS
    dataset.write_split(tmp_path, "train", examples[:8])
    dataset.write_split(tmp_path, "validation", examples[8:16])
    next_to_nothing = TrainingSpec(epochs=1, learning_rate=1e-9, batch_size=8, max_length=64)
    finetune_model(tmp_path, spec.base_model, task, next_to_nothing, ReviewSpec(), tmp_path / "model")

    texts = [e.text for e in examples]
    model = TextModel(tmp_path / "model")
    base = AutoModelForTokenClassification.from_pretrained(spec.base_model).eval()
    order = [DSLIM_OUTPUTS.index(name) for name in task.outputs]
    encoded = model.encode(texts)
    for text, (logits,) in zip(encoded, model.logits(encoded), strict=True):
        with torch.inference_mode():
            expected = base(torch.tensor(text.windows)).logits[0, :, order].numpy()
        assert logits == pytest.approx(expected, abs=0.05)  # bfloat16, where the processor has it.


@pytest.mark.parametrize("name", ["imdb-distilbert.yaml", "product-reviews-roberta.yaml", "ner-bert.yaml"])
def test_without_the_hub_an_example_says_what_base_model_to_point_to(name: str, tmp_path: Path) -> None:
    spec = load_spec(EXAMPLES / name)
    task = task_type(spec.task.type, spec.task.labels)
    some = [Example("a text", [] if name == "ner-bert.yaml" else spec.task.labels[0], "toy")]
    dataset.write_split(tmp_path, "train", some)
    dataset.write_split(tmp_path, "validation", some)
    with pytest.raises(ModelLoadError) as caught:
        finetune_model(tmp_path, spec.base_model, task, spec.training, spec.review, tmp_path / "model")
    sentence = str(caught.value)
    assert sentence.startswith(f"The base model {spec.base_model!r} cannot be loaded: ")
    assert sentence.endswith(
        " Point base_model to a directory with config.json, the weights and the tokenizer, or to a name on a Hub "
        "you can reach."
    )
    assert "\n" not in sentence


def test_without_the_hub_an_example_says_what_data_to_point_to(tmp_path: Path) -> None:
    loop = Loop(load_spec(EXAMPLES / "imdb-distilbert.yaml"), tmp_path)
    with pytest.raises(PipelineFailed) as caught:
        loop.run()
    assert str(caught.value).startswith(
        "Step data-merge failed: The data set 'stanfordnlp/imdb' cannot be loaded from the Hugging Face Hub ("
    )
    assert str(caught.value).endswith(
        "). Without access to it, point data.source to a .csv or .jsonl file. "
        f"The whole output is in {tmp_path / 'training.log'}."
    )


@pytest.mark.parametrize("name", ["product-reviews-roberta.yaml", "topics-multilabel.yaml"])
def test_without_its_table_an_example_says_where_it_was_looked_for(name: str, tmp_path: Path) -> None:
    spec = load_spec(EXAMPLES / name)
    assert spec.data.source
    with pytest.raises(DataError, match=rf"There is no data file at {spec.data.source}\. Check data\.source"):
        merge_data(
            data=spec.data,
            task_name=spec.task.type,
            labels=spec.task.labels,
            label_studio_url="",
            project_title=spec.name,
            registry_uri=(tmp_path / "registry").as_uri(),
            min_new_annotations=0,
            output=tmp_path / "dataset",
        )
