"""What the command line shows: phases, the pipeline's steps, progress, figures."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

LOG_WIDTH = 160
"""Columns where the output is not a terminal: tables keep their lines."""

Counter = Callable[[int, int], None]
"""Takes how many are done, and of how many."""


class Console:
    """Plain lines where the output is not a terminal, colours and a moving bar where it is."""

    def __init__(self) -> None:
        # The file is fixed now: while a pipeline runs, sys.stdout is redirected to its log.
        self.rich = RichConsole(file=sys.stdout, highlight=False)
        if not self.rich.is_terminal:
            self.rich.width = LOG_WIDTH
        self._step = ""

    def phase(self, title: str) -> None:
        """Begin a part of the work that takes a while."""
        self.rich.print(f"\n[bold cyan]{escape(title)}[/]")

    def line(self, text: str) -> None:
        """One thing that happened."""
        self.rich.print(Padding(escape(text), (0, 0, 0, 2), expand=False))

    def copyable(self, text: str) -> None:
        """A line to copy: never wrapped."""
        self.rich.print(escape(text), soft_wrap=True)

    def step(self, name: str, text: str) -> None:
        """A line from a pipeline step, under the step's name."""
        if name != self._step or not text:
            self._step = name
            self.rich.print(f"  [bold]{escape(name)}[/]")
        if text:
            self.rich.print(Padding(f"[dim]{escape(text)}[/]", (0, 0, 0, 4), expand=False))

    @contextmanager
    def progress(self, title: str) -> Iterator[Counter]:
        """Show how far something is: a bar on a terminal, else a line at every fifth."""
        if not self.rich.is_terminal:
            shown = -1

            def print_fifths(done: int, total: int) -> None:
                nonlocal shown
                fifth = done * 5 // total if total else 5
                if fifth > shown:
                    shown = fifth
                    self.line(f"{title}: {done} of {total}")

            yield print_fifths
            return
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.rich, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def running_count(self, title: str) -> Iterator[Callable[[int], None]]:
        """A count that goes up, of what nobody knows the total of; where there is no terminal, a line now and then."""
        if not self.rich.is_terminal:
            yield lambda done: self.line(f"{title}: {done}")
            return
        columns = (TextColumn("  {task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())
        with Progress(*columns, console=self.rich) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done: progress.update(task, completed=done)

    def table(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """Rows under their columns' names, all but the first column aligned right."""
        table = Table(box=None, padding=(0, 2), pad_edge=True)
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self.rich.print(table)

    def error(self, text: str) -> None:
        """What went wrong and what to do, on standard error."""
        RichConsole(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(text)}")
