"""A Kubeflow Pipelines API, an object store that speaks S3, and a loop that uses them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from reviewloop.spec import LoopSpec, load_spec
from tests.fakes.kubeflow_pipelines_api import FakePipelinesApi, fake_pipelines_api

BUCKET = "reviewloop"


@pytest.fixture
def pipelines_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePipelinesApi]:
    """A Kubeflow Pipelines server, named in the environment."""
    with fake_pipelines_api() as api:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.url)
        yield api


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server; its URL."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an S3 server with one empty bucket, whose address and credentials are in the environment."""
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    yield client
    client.close()


@pytest.fixture
def loop_file(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A ``loop.yaml`` whose model and data are on this machine."""
    (tmp_path / "base.csv").write_text("text,label\nit works,good\nit broke,bad\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("text,label\nfine,good\n", encoding="utf-8")
    path = tmp_path / "loop.yaml"
    document = {
        "name": "toy",
        "task": {"labels": ["bad", "good"]},
        "base_model": str(tiny_encoder),
        "data": {"source": str(tmp_path / "base.csv"), "test_sets": {"other": str(tmp_path / "other.csv")}},
        "retrain": {"min_new_annotations": 10, "quiet_s": 60},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
def loop(loop_file: Path) -> LoopSpec:
    """The loop in it."""
    return load_spec(loop_file)
