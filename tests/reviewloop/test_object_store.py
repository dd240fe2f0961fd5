"""The object store contract, on a directory and on S3."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from reviewloop.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from reviewloop.object_store import ObjectStore, open_store
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
    barrier = threading.Barrier(6)

    def create(number: int) -> bool:
        store = open_store(store_uri)
        barrier.wait()
        try:
            store.write("claim", str(number).encode(), create=True)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        succeeded = list(pool.map(create, range(6)))
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


def test_a_missing_bucket_is_a_sentence_whatever_is_done(s3: str, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/prefix")
    (tmp_path / "file").write_bytes(b"")
    for action in (
        lambda: store.read("key"),
        lambda: store.write("key", b""),
        lambda: list(store.list()),
        lambda: store.upload_file(tmp_path / "file", "key"),
    ):
        with pytest.raises(ObjectStoreError, match=r"s3://no-such-bucket/prefix/.*NoSuchBucket"):
            action()


def test_an_endpoint_that_does_not_answer_is_a_sentence(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_store(f"s3://{BUCKET}")
    (tmp_path / "file").write_bytes(b"")
    for action in (
        lambda: store.read("key"),
        lambda: store.write("key", b"", create=True),
        lambda: list(store.list()),
        lambda: store.upload_file(tmp_path / "file", "key"),
        lambda: store.download_file("key", tmp_path / "copy"),
    ):
        with pytest.raises(ObjectStoreError, match=rf"s3://{BUCKET}/.*Could not connect to the endpoint"):
            action()


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
