"""Object stores by URI: a directory (``file:///path``) or a bucket (``s3://bucket/prefix``), one interface.

Keys use ``/`` and are relative to the URI. A directory prefix always ends in ``/``, so that ``v1/`` does not
also name ``v10/``.
"""

import contextlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from reviewloop.errors import ObjectExists, ObjectNotFound, ObjectStoreError


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
    """Objects in an S3 bucket. Credentials and endpoint come from boto3's usual environment variables."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        parts = urlsplit(uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._client: Any = boto3.client("s3")

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"].read())

    def write(self, key: str, content: bytes, *, create: bool = False) -> None:
        condition = {"IfNoneMatch": "*"} if create else {}
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=content, **condition)

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self._full(""))

    def upload_file(self, source: Path, key: str) -> None:
        with self._errors(key):
            self._client.upload_file(str(source), self._bucket, self._full(key))

    def download_file(self, key: str, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key):
            self._client.download_file(self._bucket, self._full(key), str(destination))

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                raise ObjectNotFound(f"There is nothing at {self.uri(key)}.") from None
            if code in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise ObjectExists(f"{self.uri(key)} exists already.") from None
            raise ObjectStoreError(f"{self.uri(key)}: the object store answered {code}.") from error
        except (BotoCoreError, Boto3Error) as error:
            raise ObjectStoreError(f"{self.uri(key)}: {error}") from error
