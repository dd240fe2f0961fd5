"""The loop spec of a command, with what the demos' loops name fetched first."""

from collections.abc import Callable
from pathlib import Path

from local.assets import fetch_assets
from local.entity_demo import REPORTS_FILE, write_entity_texts
from reviewloop.spec import LoopSpec, load_spec

ASSETS = Path("build/assets")


def load_loop_with_assets(loop: Path, report_progress: Callable[[str], None]) -> LoopSpec:
    """The loop in a file; the encoder and texts below :data:`ASSETS` that it names are there afterwards.

    Raises:
        SpecError: the file is not a loop.
        PlatformError: a download failed.
    """
    spec = load_spec(loop)
    if Path(spec.base_model).is_relative_to(ASSETS):
        fetch_assets(ASSETS, report_progress)
    reports = ASSETS / REPORTS_FILE
    if spec.data.source == str(reports) and not reports.exists():
        write_entity_texts(ASSETS)
    return spec
