"""Run the training pipeline on this machine: each step a subprocess, no Docker, no cluster."""

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from kfp import local

from pipelines.training import training_pipeline
from reviewloop.errors import ReviewLoopError
from reviewloop.spec import LoopSpec

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STEP_STARTS = re.compile(r"Executing task '([\w-]+)'")
_STEP_ENDS = re.compile(r"Task '[\w-]+' finished")
# What a step's own code prints, as against KFP's account of running it: indented, and not JSON or a warning of KFP's.
_STEP_PRINTS = re.compile(r"^    (?![ \[{}/]|Loading KFP|Got executor_input)(\S.*)$")
_STACK_TRACE = "Traceback (most recent call last):"
# The line that ends a stack trace; the name of an error of ours tells a person nothing that its sentence does not.
_ERROR = re.compile(r"^(?:reviewloop\.errors\.\w+: (?P<sentence>.+)|(?P<foreign>[\w.]+(?:: .*)?))$")


class PipelineFailed(ReviewLoopError):
    """A step of the pipeline failed; its output is in the log."""


def run_training_pipeline(
    spec: LoopSpec,
    arguments: dict[str, Any],
    pipeline_root: Path,
    log: Path,
    report_progress: Callable[[str, str], None],
) -> None:
    """Run the pipeline to its end, with all output in ``log``.

    ``report_progress`` gets the step's name and a line, for each line that the step's own code prints.

    Raises:
        PipelineFailed: names the step, its last lines and the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as log_file, warnings.catch_warnings():
        # It warns that an image whose name lacks "python" may not run Python.
        warnings.filterwarnings("ignore", message="You may be attemping", category=RuntimeWarning)
        # And that the pods' settings, which are a cluster's, have no effect here.
        warnings.filterwarnings("ignore", message="Task '.*': settings", category=UserWarning)
        output = _StepOutput(log_file, report_progress)
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(pipeline_root), raise_on_error=True)
        try:
            with contextlib.redirect_stdout(output):
                training_pipeline(spec)(**arguments)
        except RuntimeError as error:
            raise PipelineFailed(
                f"Step {output.step} failed: {output.last_error or error} The whole output is in {log}."
            ) from None


class _StepOutput(io.TextIOBase):
    """Stands in for standard output: everything goes to the log, the steps' own lines to the progress."""

    def __init__(self, log: TextIO, report_progress: Callable[[str, str], None]) -> None:
        self._log = log
        self._report_progress = report_progress
        self._partial = ""
        self.step = "data-merge"
        self._running = False
        self._failing = False
        self._in_stack_trace = False
        self._terminal = sys.stdout
        self.last_error = ""

    def write(self, text: str) -> int:
        self._log.write(_COLOUR.sub("", text))
        self._log.flush()
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._read(_COLOUR.sub("", line))
        return len(text)

    def _read(self, line: str) -> None:
        if starts := _STEP_STARTS.search(line):
            self.step, self._running, self._failing = starts[1], True, False
            self._report("")
        elif _STEP_ENDS.search(line):
            self._running = False
        elif self._running and (prints := _STEP_PRINTS.match(line)):
            if prints[1] == _STACK_TRACE:
                self._failing = self._in_stack_trace = True
            elif not self._failing:
                self._report(prints[1])
            elif self._in_stack_trace and (error := _ERROR.match(prints[1])):
                # Of several stack traces in a row, the last one's error is what reached the step.
                self._in_stack_trace = False
                self.last_error = error["sentence"] or f"{error['foreign']}."

    def _report(self, line: str) -> None:
        # What reports may print, and that is not the steps' output.
        with contextlib.redirect_stdout(self._terminal):
            self._report_progress(self.step, line)
