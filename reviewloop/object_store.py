"""Object stores by URI: a directory (``file:///path``) or a bucket (``s3://bucket/prefix``), one interface.

Keys use ``/`` and are relative to the URI. A directory prefix always ends in ``/``, so that ``v1/`` does not
also name ``v10/``.
"""

import contextlib
import os
import random
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from reviewloop.errors import ObjectExists, ObjectNotFound, ObjectStoreError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
MAX_ATTEMPTS = 5
"""How often S3 is asked before it counts as down; the waits in between double, up to 15 s in all."""

ATTEMPTS_VARIABLE = "AWS_MAX_ATTEMPTS"
CONFLICT_WAIT_S = 0.05
SETTINGS_ADVICE = "Check AWS_ENDPOINT_URL (http://host:port), AWS_DEFAULT_REGION, and that the store answers."
MARK = "reviewloop-writer"
"""The object metadata that tells the writers of a conditional write apart."""


class ObjectStore(ABC):
    """Reads, writes and lists objects below one URI."""

    def __init__(self, uri: str) -> None:
        self.root = uri.rstrip("/")

    def uri(self, key: str) -> str:
        """The full URI of ``key``."""
        return f"{self.root}/{key}"

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The object's content.

        Raises:
            ObjectNotFound: there is no such key.
        """

    @abstractmethod
    def write(self, key: str, content: bytes, *, create: bool = False) -> None:
        """Write an object whole: a reader sees the old content or the new, never a part.

        Raises:
            ObjectExists: ``create`` is true and the key is taken. Of several writers, one succeeds.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with ``prefix``, in order."""

    @abstractmethod
    def upload_file(self, source: Path, key: str) -> None:
        """Write a file of any size."""

    @abstractmethod
    def download_file(self, key: str, destination: Path) -> None:
        """Read an object of any size into a file; its directory is made.

        Raises:
            ObjectNotFound: there is no such key.
        """

    def upload_dir(self, source: Path, prefix: str) -> None:
        """Write every file below ``source`` below ``prefix``."""
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            self.upload_file(path, f"{prefix.rstrip('/')}/{path.relative_to(source).as_posix()}")

    def download_dir(self, prefix: str, destination: Path) -> None:
        """Read every object below ``prefix`` into ``destination``.

        Raises:
            ObjectNotFound: nothing is there.
        """
        prefix = prefix.rstrip("/") + "/"
        keys = list(self.list(prefix))
        if not keys:
            raise ObjectNotFound(f"There is nothing at {self.uri(prefix)}.")
        for key in keys:
            self.download_file(key, destination / key.removeprefix(prefix))


def open_store(uri: str) -> ObjectStore:
    """The object store at ``uri``.

    Raises:
        ObjectStoreError: the URI's scheme is not one of those supported.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return FileStore(uri)
    if scheme == "s3":
        return S3Store(uri)
    raise ObjectStoreError(f"Expected a file:///path or s3://bucket/prefix URI, got {uri!r}.")


def is_object(name: str) -> bool:
    """Whether what may be a path or another name is an object's URI in a bucket."""
    return name.startswith("s3://")


@contextlib.contextmanager
def local_copy(name: str) -> Iterator[str]:
    """A path to what ``name`` stands for: itself, or a copy of an object that is gone in the end.

    An ``s3://`` URI that ends in ``/`` stands for a directory.

    Raises:
        ObjectStoreError: it cannot be read.
    """
    if not is_object(name):
        yield name
        return
    parent, _, last = name.rstrip("/").rpartition("/")
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / last
        if name.endswith("/"):
            open_store(parent).download_dir(last, copy)
        else:
            open_store(parent).download_file(last, copy)
        yield str(copy)


class FileStore(ObjectStore):
    """Objects as files below a directory."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise ObjectStoreError(f"Expected an absolute path in file:///path, got {uri!r}.")
        self._root = Path(unquote(parts.path))

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return (self._root / key).read_bytes()

    def write(self, key: str, content: bytes, *, create: bool = False) -> None:
        with self._errors(key), self._temporary(key) as temporary:
            temporary.write_bytes(content)
            self._place(temporary, key, create)

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix):
            keys = sorted(p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if p.is_file())
        yield from (key for key in keys if key.startswith(prefix) and not Path(key).name.startswith(".tmp-"))

    def upload_file(self, source: Path, key: str) -> None:
        self.write(key, source.read_bytes())

    def download_file(self, key: str, destination: Path) -> None:
        content = self.read(key)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(content)

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        directory = (self._root / key).parent
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f".tmp-{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _place(self, temporary: Path, key: str, create: bool) -> None:
        if create:
            os.link(temporary, self._root / key)  # Unlike rename, link fails if the name is taken.
        else:
            temporary.replace(self._root / key)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise ObjectExists(f"{self.uri(key)} exists already.") from None
        except FileNotFoundError:
            raise ObjectNotFound(f"There is nothing at {self.uri(key)}.") from None
        except OSError as error:
            raise ObjectStoreError(f"{self.uri(key)}: {error.strerror}.") from error


class S3Store(ObjectStore):
    """Objects in an S3 bucket. Credentials and endpoint come from boto3's usual environment variables.

    What may pass by itself (throttling, 5xx answers, lost connections) is tried MAX_ATTEMPTS times, some seconds in
    all, unless AWS_MAX_ATTEMPTS says otherwise.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        parts = urlsplit(uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        if not self._bucket:
            raise ObjectStoreError(f"Expected a bucket in s3://bucket/prefix, got {uri!r}.")
        retries = {"mode": "standard"} | (
            {} if ATTEMPTS_VARIABLE in os.environ else {"total_max_attempts": MAX_ATTEMPTS}
        )
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries=retries,
            # The checksums that boto3 adds otherwise end up inside the objects of older SeaweedFS releases, and are
            # refused by other stores (seaweedfs#6548).
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._errors(""):
            # A session of its own: boto3's default one may not be used by several threads at once.
            self._client: Any = boto3.Session().client("s3", config=config)

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"].read())

    def write(self, key: str, content: bytes, *, create: bool = False) -> None:
        if create:
            self._create(key, content)
            return
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=content)

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    # What ends in / stands for a folder that was made by hand.
                    if not entry["Key"].endswith("/"):
                        yield entry["Key"].removeprefix(self._full(""))

    def upload_file(self, source: Path, key: str) -> None:
        with self._errors(key), source.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, self._full(key))

    def download_file(self, key: str, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key):
            self._client.download_file(self._bucket, self._full(key), str(destination))

    def _create(self, key: str, content: bytes) -> None:
        # A try whose answer was lost may have succeeded, and the next one then finds the key taken: by this mark the
        # object is known as our own.
        mark = uuid.uuid4().hex
        for attempt in range(1, MAX_ATTEMPTS + 1):
            with self._errors(key):
                try:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=self._full(key),
                        Body=content,
                        IfNoneMatch="*",
                        Metadata={MARK: mark},
                    )
                except ClientError as error:
                    code = _code(error)
                    # S3's answer to writes that meet in it; it does not say that any succeeded.
                    if code == "ConditionalRequestConflict" and attempt < MAX_ATTEMPTS:
                        time.sleep(random.uniform(0.5, 1.0) * 2**attempt * CONFLICT_WAIT_S)
                        continue
                    if code != "PreconditionFailed" or not self._is_marked(key, mark):
                        raise
                return

    def _is_marked(self, key: str, mark: str) -> bool:
        found = self._client.head_object(Bucket=self._bucket, Key=self._full(key))
        return bool(found["Metadata"].get(MARK) == mark)

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        uri = self.uri(key)
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in ("NoSuchKey", "404"):
                raise ObjectNotFound(f"There is nothing at {uri}.") from None
            if code == "PreconditionFailed":
                raise ObjectExists(f"{uri} exists already.") from None
            raise ObjectStoreError(f"{uri}: the object store answered {code}. {self._advice(error)}") from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ObjectStoreError(
                f"{uri}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from error
        except (BotoCoreError, Boto3Error, ValueError) as error:
            # A ValueError is what boto3 makes of an endpoint that is no URL.
            reason = " ".join(str(error).split()).rstrip(".")
            raise ObjectStoreError(f"{uri}: {reason}. {SETTINGS_ADVICE}") from error

    def _advice(self, error: ClientError) -> str:
        code, status = _code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchBucket":
            return f"Make the bucket {self._bucket}, or correct the URI."
        if status in (401, 403):
            return (
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may read, write and list "
                f"the bucket {self._bucket}."
            )
        if code == "NotImplemented":
            return "The registry needs a store with conditional writes (If-None-Match)."
        if status >= 500 or status in (409, 429):
            return "It is overloaded or down: run this again later."
        return SETTINGS_ADVICE


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])
