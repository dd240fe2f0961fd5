"""The object store contract, on a directory and on S3."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from reviewloop import object_store
from reviewloop.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from reviewloop.object_store import MAX_ATTEMPTS, ObjectStore, open_store
from tests.reviewloop.conftest import BUCKET


def test_what_is_written_is_read_back(store: ObjectStore) -> None:
    store.write("a/b/c.bin", b"\x00\xff binary")
    assert store.read("a/b/c.bin") == b"\x00\xff binary"


def test_a_second_write_replaces_the_first(store: ObjectStore) -> None:
    store.write("key", b"old and longer")
    store.write("key", b"new")
    assert store.read("key") == b"new"
    assert list(store.list()) == ["key"]


def test_another_store_at_the_same_uri_sees_the_same(store: ObjectStore, store_uri: str) -> None:
    store.write("key", b"content")
    assert open_store(store_uri + "/").read("key") == b"content"


def test_creating_a_taken_key_fails_and_changes_nothing(store: ObjectStore) -> None:
    store.write("key", b"first", create=True)
    with pytest.raises(ObjectExists, match=r"/key exists already\."):
        store.write("key", b"second", create=True)
    assert store.read("key") == b"first"


def test_of_competing_creators_one_succeeds(store_uri: str) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        store = open_store(store_uri)
        barrier.wait()
        try:
            store.write("claim", str(number).encode(), create=True)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        succeeded = list(pool.map(create, range(8)))
    assert sum(succeeded) == 1
    assert open_store(store_uri).read("claim") == str(succeeded.index(True)).encode()


def test_what_is_not_there_is_named(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match=rf"There is nothing at {store.root}/a/key\."):
        store.read("a/key")
    with pytest.raises(ObjectNotFound, match=rf"There is nothing at {store.root}/a/key\."):
        store.download_file("a/key", tmp_path / "file")
    with pytest.raises(ObjectNotFound, match=rf"There is nothing at {store.root}/a/\."):
        store.download_dir("a", tmp_path / "directory")
    assert list(store.list("a/")) == []


def test_keys_are_listed_in_order_below_their_prefix_only(store: ObjectStore) -> None:
    keys = ["v1/model/config.json", "v1/claim.json", "v10/claim.json", "v1-old/claim.json", "champion.json"]
    for key in keys:
        store.write(key, b"")
    assert list(store.list()) == sorted(keys)
    assert list(store.list("v1/")) == ["v1/claim.json", "v1/model/config.json"]


def test_a_directory_comes_back_as_it_went(store: ObjectStore, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "sub/deep/weights.bin": bytes(range(256)) * 1000, "empty": b""}
    for name, content in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    store.upload_dir(tmp_path / "source", "v1/model/")
    store.write("v10/model/other", b"not of v1")
    store.download_dir("v1/model", tmp_path / "copy")
    copy = {p.relative_to(tmp_path / "copy").as_posix(): p.read_bytes() for p in (tmp_path / "copy").rglob("*.*")}
    copy["empty"] = (tmp_path / "copy" / "empty").read_bytes()
    assert copy == files


def test_uris_start_with_the_root(store: ObjectStore, store_uri: str) -> None:
    assert store.uri("v1/model/") == f"{store_uri}/v1/model/"


def test_a_path_with_a_space_is_found_through_its_uri(tmp_path: Path) -> None:
    directory = tmp_path / "my registry"
    open_store(directory.as_uri()).write("key", b"content")
    assert (directory / "key").read_bytes() == b"content"


def test_a_bucket_without_a_prefix_lists_whole_keys(s3: str) -> None:
    store = open_store(s3)
    store.write("at-the-root/key", b"")
    assert list(store.list("at-the-root/")) == ["at-the-root/key"]


def test_a_folder_made_by_hand_is_no_object(s3: str, tmp_path: Path) -> None:
    client = boto3.client("s3")
    for key in ("data/", "data/train.csv", "data/empty/"):
        client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{key}", Body=b"")
    store = open_store(f"{s3}/{tmp_path.name}")
    assert list(store.list()) == ["data/train.csv"]
    store.download_dir("data", tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["train.csv"]


def test_more_keys_than_one_s3_page_are_all_listed(s3: str) -> None:
    client = boto3.client("s3")
    keys = [f"many/{number:04d}" for number in range(1_050)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key), keys))
    assert list(open_store(f"{s3}/many").list()) == [key.removeprefix("many/") for key in keys]


@pytest.mark.parametrize("uri", ["/plain/path", "minio://bucket/prefix", "https://example.com", ""])
def test_an_unsupported_scheme_says_which_are_supported(uri: str) -> None:
    with pytest.raises(ObjectStoreError, match=r"Expected a file:///path or s3://bucket/prefix URI, got"):
        open_store(uri)


def test_a_relative_file_uri_is_refused() -> None:
    with pytest.raises(ObjectStoreError, match=r"Expected an absolute path in file:///path, got 'file://build/x'"):
        open_store("file://build/x")


def test_a_file_of_several_parts_comes_back_as_it_went(s3: str, tmp_path: Path) -> None:
    store = open_store(f"{s3}/{tmp_path.name}")
    content = os.urandom(17 * 1024 * 1024 + 1)
    (tmp_path / "file").write_bytes(content)
    store.upload_file(tmp_path / "file", "weights.bin")
    store.download_file("weights.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    # The number of its parts is at the end of an object's tag.
    tag = boto3.client("s3").head_object(Bucket=BUCKET, Key=f"{tmp_path.name}/weights.bin")["ETag"]
    assert tag.strip('"').endswith("-3")


def test_the_bytes_sent_are_the_content_alone(faulty_s3: "FaultyS3") -> None:
    open_store(faulty_s3.uri).write("key", b"content")
    headers = faulty_s3.last_request
    assert headers["CONTENT_LENGTH"] == "7"
    assert "aws-chunked" not in headers.get("HTTP_CONTENT_ENCODING", "")


@pytest.mark.parametrize("uri", ["s3://", "s3:///prefix"])
def test_a_uri_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ObjectStoreError, match=r"Expected a bucket in s3://bucket/prefix, got"):
        open_store(uri)


# What goes wrong with S3.


class FaultyS3:
    """S3 at an address of its own, which treats some of the next requests as ``fault`` says."""

    def __init__(self, app: Any) -> None:
        self.uri = ""
        self.fault: Callable[[Any, Any], list[bytes]] | None = None
        self.faults = 0
        """So many requests meet the fault, the next ones first."""
        self.requests = 0
        self.last_request: dict[str, Any] = {}
        self.app = app

    def refuse(self, times: int, status: str, code: str) -> None:
        """Answer the next requests with an error of S3."""

        def answer(environ: Any, start_response: Any) -> list[bytes]:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("content-type", "application/xml")])
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>"
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]

        self.fault, self.faults = answer, times

    def lose_answer(self) -> None:
        """Let the next request take effect, and answer 500."""

        def lose(environ: Any, start_response: Any) -> list[bytes]:
            list(self.app(environ, lambda status, headers, *rest: lambda data: None))
            start_response("500 Internal Server Error", [("content-length", "0")])
            return []

        self.fault, self.faults = lose, 1

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.requests += 1
        self.last_request = environ
        if self.faults and self.fault:
            self.faults -= 1
            return self.fault(environ, start_response)
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def faulty_server(s3: str) -> Iterator[tuple[FaultyS3, str]]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = faulty = FaultyS3(server._server.app)
    host, port = server.get_host_and_port()
    yield faulty, f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def faulty_s3(
    faulty_server: tuple[FaultyS3, str], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FaultyS3:
    faulty, url = faulty_server
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    # The waits between tries are random, up to what this computes.
    monkeypatch.setattr(object_store, "CONFLICT_WAIT_S", 0.0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)
    faulty.uri = f"{s3}/{tmp_path.name}"
    faulty.fault, faulty.faults, faulty.requests = None, 0, 0
    return faulty


def actions(store: ObjectStore, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Each thing that a store does."""
    (tmp_path / "file").write_bytes(b"content")
    return {
        "write": lambda: store.write("key", b"content"),
        "create": lambda: store.write("created", b"content", create=True),
        "upload": lambda: store.upload_file(tmp_path / "file", "uploaded"),
        "read": lambda: store.read("key"),
        "list": lambda: list(store.list()),
        "download": lambda: store.download_file("key", tmp_path / "copy"),
    }


def test_a_store_that_is_busy_for_a_moment_is_asked_again(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    for name, action in actions(open_store(faulty_s3.uri), tmp_path).items():
        faulty_s3.refuse(2, "503 Slow Down", "SlowDown")
        action()
        assert faulty_s3.faults == 0, name
    store = open_store(faulty_s3.uri)
    assert list(store.list()) == ["created", "key", "uploaded"]
    assert (tmp_path / "copy").read_bytes() == store.read("uploaded") == b"content"


def test_a_store_that_stays_busy_is_given_up(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    for name, action in actions(open_store(faulty_s3.uri), tmp_path).items():
        faulty_s3.refuse(1000, "503 Slow Down", "SlowDown")
        faulty_s3.requests = 0
        with pytest.raises(ObjectStoreError, match=r"answered SlowDown\. It is overloaded or down: run this again"):
            action()
        assert faulty_s3.requests == MAX_ATTEMPTS, name


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        ("403 Forbidden", "InvalidAccessKeyId", "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they"),
        ("403 Forbidden", "AccessDenied", "may read, write and list the bucket loop"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        ("501 Not Implemented", "NotImplemented", "conditional writes"),
    ],
)
def test_a_refusal_says_what_to_check(faulty_s3: FaultyS3, tmp_path: Path, status: str, code: str, advice: str) -> None:
    for action in actions(open_store(faulty_s3.uri), tmp_path).values():
        faulty_s3.refuse(1, status, code)
        with pytest.raises(ObjectStoreError, match=rf"answered {code}\. .*{advice}") as error:
            action()
        assert type(error.value) is ObjectStoreError
        assert faulty_s3.faults == 0


def test_who_created_a_key_is_told_so_though_the_answer_was_lost(faulty_s3: FaultyS3) -> None:
    store = open_store(faulty_s3.uri)
    faulty_s3.lose_answer()
    store.write("key", b"content", create=True)
    assert store.read("key") == b"content"
    with pytest.raises(ObjectExists):
        store.write("key", b"content", create=True)


def test_who_came_second_is_told_so_though_the_first_answer_was_lost(faulty_s3: FaultyS3) -> None:
    store = open_store(faulty_s3.uri)
    store.write("key", b"content", create=True)
    faulty_s3.lose_answer()
    with pytest.raises(ObjectExists):
        store.write("key", b"content", create=True)


def test_writes_that_meet_are_tried_again(faulty_s3: FaultyS3) -> None:
    store = open_store(faulty_s3.uri)
    faulty_s3.refuse(2, "409 Conflict", "ConditionalRequestConflict")
    store.write("key", b"content", create=True)
    assert store.read("key") == b"content"
    faulty_s3.refuse(2, "409 Conflict", "ConditionalRequestConflict")
    with pytest.raises(ObjectExists):
        store.write("key", b"other", create=True)
    # None of them need have succeeded, so the key need not be taken.
    faulty_s3.refuse(1000, "409 Conflict", "ConditionalRequestConflict")
    with pytest.raises(ObjectStoreError, match=r"ConditionalRequestConflict\. .*run this again later") as error:
        store.write("third", b"content", create=True)
    assert type(error.value) is ObjectStoreError


def test_a_missing_bucket_is_a_sentence_whatever_is_done(s3: str, tmp_path: Path) -> None:
    for action in actions(open_store("s3://no-such-bucket/prefix"), tmp_path).values():
        with pytest.raises(
            ObjectStoreError, match=r"s3://no-such-bucket/prefix/.*NoSuchBucket\. Make the bucket no-such"
        ):
            action()


def test_missing_credentials_are_a_sentence(
    faulty_s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for action in actions(open_store(faulty_s3.uri), tmp_path).values():
        with pytest.raises(
            ObjectStoreError, match=r"no credentials\. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\."
        ):
            action()
    assert faulty_s3.requests == 0
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    with pytest.raises(ObjectStoreError, match=r"Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\."):
        open_store(faulty_s3.uri).read("key")


def test_an_endpoint_that_does_not_answer_is_a_sentence(
    faulty_s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for action in actions(open_store(f"s3://{BUCKET}"), tmp_path).values():
        with pytest.raises(
            ObjectStoreError, match=rf"s3://{BUCKET}/.*Could not connect to the endpoint.*AWS_ENDPOINT_URL"
        ):
            action()


def test_an_endpoint_that_is_silent_is_given_up(
    faulty_s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "READ_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ObjectStoreError, match="Read timeout on endpoint URL"):
            open_store(f"s3://{BUCKET}").read("key")
        assert time.monotonic() - started < 5.0


def test_an_endpoint_that_is_no_url_is_a_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio-service:9000")
    with pytest.raises(
        ObjectStoreError, match=r"Invalid endpoint: minio-service:9000\. Check AWS_ENDPOINT_URL \(http://"
    ):
        open_store(s3)


def test_a_directory_in_the_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    with pytest.raises(ObjectStoreError, match=r"/key: Is a directory\."):
        open_store(tmp_path.as_uri()).read("key")


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    store.write("key", contents[0])
    done = threading.Event()

    def write_on() -> None:
        for number in range(60):
            store.write("key", contents[number % 2])
        done.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    while not done.is_set():
        assert store.read("key") in contents
        assert list(store.list()) == ["key"]
    writer.join()
