"""Copy what a loop names by a path on this machine to the object store, where a cluster's steps can read it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from components.data_merge.base_data import HUB_PREFIX
from reviewloop.errors import SpecError
from reviewloop.object_store import ObjectStore, is_object, open_store
from reviewloop.spec import LoopSpec

_DIGEST_LENGTH = 16


def stage_inputs(spec: LoopSpec, report_progress: Callable[[str], None]) -> LoopSpec:
    """The loop with ``s3://`` URIs in place of local paths, once everything is there.

    It is kept below the content's hash, so that the same content is copied once, and a URI that a pipeline version
    names always means the same.

    Raises:
        SpecError: a file or directory is not there.
        ObjectStoreError: the object store cannot be written.
    """
    root = f"{spec.cluster_registry_uri.rstrip('/')}/inputs"
    data = spec.data
    staged = data.model_copy(
        update={
            "source": _stage_file(data.source, "data.source", root, report_progress) if data.source else None,
            "test_sets": {
                name: _stage_file(file, f"data.test_sets.{name}", root, report_progress)
                for name, file in data.test_sets.items()
            },
        }
    )
    return spec.model_copy(update={"data": staged, "base_model": _stage_model(spec.base_model, root, report_progress)})


def _stage_file(source: str, field: str, root: str, report_progress: Callable[[str], None]) -> str:
    if is_object(source) or source.startswith(HUB_PREFIX):
        return source
    path = Path(source)
    if not path.is_file():
        raise SpecError(f"{field}: there is no file {path}. Run this where it is, or name an s3:// URI.")
    key = f"{_digest([path], path.parent)}/{path.name}"
    _upload(open_store(root), [(path, key)], report_progress)
    return f"{root}/{key}"


def _stage_model(base_model: str, root: str, report_progress: Callable[[str], None]) -> str:
    path = Path(base_model)
    if is_object(base_model) or not path.is_dir():
        if base_model.startswith(("/", ".")):
            raise SpecError(f"base_model: there is no directory {path}. Run this where it is, or name an s3:// URI.")
        return base_model
    files = sorted(p for p in path.rglob("*") if p.is_file())
    prefix = f"{_digest(files, path)}/{path.resolve().name}/"
    _upload(open_store(root), [(file, prefix + file.relative_to(path).as_posix()) for file in files], report_progress)
    return f"{root}/{prefix}"


def _upload(store: ObjectStore, files: list[tuple[Path, str]], report_progress: Callable[[str], None]) -> None:
    # An object is there whole or not at all, so what an interrupted upload left is used.
    there = set(store.list(files[0][1].split("/")[0] + "/")) if files else set()
    for path, key in files:
        if key not in there:
            report_progress(f"Copying {path} to {store.uri(key)}")
            store.upload_file(path, key)


def _digest(files: list[Path], directory: Path) -> str:
    """A hash of the files' names and contents."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
        total.update(path.relative_to(directory).as_posix().encode() + b"\0")
    return total.hexdigest()[:_DIGEST_LENGTH]
