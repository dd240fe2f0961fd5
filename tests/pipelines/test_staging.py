"""Local files and directories on their way to the object store, and from there into the steps."""

from pathlib import Path
from typing import Any

import boto3
import pytest

from components.data_merge.base_data import read_examples
from components.finetune.train import _load
from pipelines.staging import stage_inputs
from reviewloop.errors import DataError, ObjectStoreError, SpecError
from reviewloop.object_store import local_copy
from reviewloop.problems import Problems
from reviewloop.spec import LoopSpec
from reviewloop.task_types import task_type
from tests.pipelines.conftest import BUCKET

TASK = task_type("text-classification", ("bad", "good"))


def test_everything_local_is_copied_once_and_can_be_read_by_the_steps(loop: LoopSpec, s3: Any) -> None:
    said: list[str] = []
    staged = stage_inputs(loop, said.append)
    assert staged.base_model.startswith("s3://reviewloop/toy/inputs/") and staged.base_model.endswith("/")
    assert str(staged.data.source).endswith("/base.csv")
    assert staged.data.test_sets["other"].endswith("/other.csv")
    assert len(said) == len(list(Path(loop.base_model).iterdir())) + 2
    again: list[str] = []
    assert stage_inputs(loop, again.append) == staged
    assert again == []

    examples = read_examples(str(staged.data.source), "base", TASK, Problems())
    assert [(e.text, e.label) for e in examples] == [("it works", "good"), ("it broke", "bad")]
    tokenizer, model = _load(staged.base_model, TASK, 16, 7)
    assert len(tokenizer) == model.config.vocab_size


def test_other_content_gets_another_address(loop: LoopSpec, s3: Any) -> None:
    before = stage_inputs(loop, lambda line: None)
    Path(str(loop.data.source)).write_text("text,label\nit works,bad\n", encoding="utf-8")
    after = stage_inputs(loop, lambda line: None)
    assert after.data.source != before.data.source
    assert (after.base_model, after.data.test_sets) == (before.base_model, before.data.test_sets)


def test_what_an_interrupted_upload_left_out_is_added(loop: LoopSpec, s3: Any) -> None:
    staged = stage_inputs(loop, lambda line: None)
    key = staged.base_model.removeprefix(f"s3://{BUCKET}/") + "config.json"
    s3.delete_object(Bucket=BUCKET, Key=key)
    said: list[str] = []
    stage_inputs(loop, said.append)
    assert len(said) == 1 and "config.json" in said[0]


def test_what_is_not_on_this_machine_stays_as_it_is(loop: LoopSpec) -> None:
    data = loop.data.model_copy(update={"source": "hub:owner/data:train", "test_sets": {"x": "s3://there/x.csv"}})
    spec = loop.model_copy(update={"data": data, "base_model": "owner/model"})
    assert stage_inputs(spec, lambda line: None) == spec


def test_what_is_nowhere_is_a_sentence(loop: LoopSpec) -> None:
    data = loop.data.model_copy(update={"source": "nowhere.csv"})
    with pytest.raises(SpecError, match=r"data\.source: there is no file nowhere\.csv"):
        stage_inputs(loop.model_copy(update={"data": data}), lambda line: None)
    empty = loop.data.model_copy(update={"source": None, "test_sets": {}})
    with pytest.raises(SpecError, match="base_model: there is no directory /no/where"):
        stage_inputs(loop.model_copy(update={"data": empty, "base_model": "/no/where"}), lambda line: None)


def test_an_object_that_is_not_there_is_a_sentence(s3: Any) -> None:
    with pytest.raises(DataError, match=r"nothing at s3://reviewloop/no/such\.csv\. Check data\.source"):
        read_examples("s3://reviewloop/no/such.csv", "base", TASK, Problems())
    with (
        pytest.raises(ObjectStoreError, match="nothing at s3://reviewloop/no/such/"),
        local_copy("s3://reviewloop/no/such/"),
    ):
        pass


def test_missing_credentials_are_a_sentence(
    loop: LoopSpec, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ObjectStoreError, match="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        stage_inputs(loop, lambda line: None)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
