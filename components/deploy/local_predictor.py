"""The rollout to the local model server: fetch, swap, probe, and roll back if the probe fails."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from components.deploy.probes import Probe, ask, compare
from reviewloop.errors import RolloutError
from reviewloop.registry import Registry


def deploy_to_local_predictor(
    version: str,
    registry: Registry,
    model_name: str,
    predictor_url: str,
    serving_dir: Path,
    timeout_s: float = 120.0,
) -> None:
    """Make the predictor at ``predictor_url`` serve ``version``, then point the ``champion`` alias to it.

    The predictor reads ``serving_dir / "current"``, a symbolic link that is moved atomically; it loads the new
    model beside the old one and swaps between two batches, so no request fails. The alias moves last: it names
    what serves.

    Raises:
        RegistryError: there is no such version.
        RolloutError: the version did not load, or answered its probes otherwise than at its evaluation. The
            previous version serves again.
    """
    probes = registry.manifest(version).evaluation["probes"]
    target = serving_dir / version
    if not target.exists():
        # Renamed once it is whole: what an interrupted download left must not be served.
        arriving = serving_dir / f".{version}"
        shutil.rmtree(arriving, ignore_errors=True)
        registry.fetch_model(version, arriving)
        arriving.rename(target)
    link = serving_dir / "current"
    previous = link.resolve() if link.is_symlink() else None
    _point(link, target)
    try:
        _reload(predictor_url, model_name, timeout_s, wait_s=timeout_s)
        _probe(predictor_url, model_name, version, probes)
    except (RolloutError, httpx.HTTPError) as error:
        if previous is None:
            link.unlink()
        else:
            _point(link, previous)
        if target.resolve() != previous:
            shutil.rmtree(target)  # The next attempt downloads it anew.
        if previous is None:
            raise RolloutError(f"{version} could not be deployed: {error} Nothing served before.") from error
        _reload(predictor_url, model_name, timeout_s, wait_s=0.0)
        raise RolloutError(f"{version} could not be deployed: {error} {previous.name} serves again.") from error
    registry.set_champion(version)


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(".next")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.resolve(), target_is_directory=True)
    temporary.replace(link)


def _reload(predictor_url: str, model_name: str, timeout_s: float, *, wait_s: float) -> None:
    # A predictor that is still starting is waited for; once it answers, loading may take ``timeout_s``.
    deadline = time.monotonic() + wait_s
    while True:
        try:
            response = httpx.post(f"{predictor_url}/v2/repository/models/{model_name}/load", timeout=timeout_s)
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                raise RolloutError(
                    f"The predictor at {predictor_url} does not answer ({type(error).__name__}). Is it running?"
                ) from error
            time.sleep(0.5)
            continue
        if response.status_code != httpx.codes.OK:
            raise RolloutError(f"The predictor refused to load it: {response.text[:300]}")
        return


def _probe(predictor_url: str, model_name: str, version: str, probes: Sequence[Probe]) -> None:
    answers = ask(predictor_url, model_name, probes)
    for answer in answers:
        if answer["model_version"] != version:
            raise RolloutError(f"The predictor serves {answer['model_version']}, not {version}.")
    compare(probes, answers)
