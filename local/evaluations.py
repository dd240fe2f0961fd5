"""Print what an evaluation found."""

from local.console import Console
from reviewloop.registry import VersionManifest


def print_evaluation(manifest: VersionManifest, console: Console) -> None:
    """The verdict and a table of the test sets."""
    evaluation = manifest.evaluation
    console.line(f"{manifest.version} {manifest.verdict}: {' '.join(evaluation['reasons'])}")
    rows = []
    for name, measured in evaluation["test_sets"].items():
        challenger, champion, difference = measured["challenger"], measured["champion"], measured["difference"]
        rows.append(
            (
                name,
                challenger["size"],
                f"{champion['score']:.3f}" if champion else "-",
                f"{challenger['score']:.3f}",
                f"{difference['low']:+.3f} to {difference['high']:+.3f}" if difference else "-",
                f"{challenger['macro_f1']:.3f}",
                f"{challenger['ece']:.3f}",
            )
        )
    console.table(
        (
            "test set",
            "examples",
            f"{evaluation['metric']} before",
            f"{evaluation['metric']} now",
            "change, interval",
            "macro F1",
            "calibration error",
        ),
        rows,
    )
