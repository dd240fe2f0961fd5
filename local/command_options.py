"""What the groups of commands share: the console they print to, and the option that names the loop."""

from pathlib import Path
from typing import Annotated

import typer

from local.console import Console

DEMO_SPEC = Path("examples/sentiment.yaml")

Loop = Annotated[Path, typer.Option("--loop", help="The loop spec.", metavar="FILE")]

console = Console()
