"""Render an evaluation for people: a self-contained HTML page and a Markdown summary."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_ENVIRONMENT = Environment(
    loader=PackageLoader("components.evaluate", "templates"),
    autoescape=select_autoescape(("html.j2",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["percent"] = lambda value, digits=1: f"{100 * value:.{digits}f}%"
_ENVIRONMENT.filters["points"] = lambda value: f"{100 * value:+.1f}"


def render_html(evaluation: dict[str, Any]) -> str:
    """The report as one HTML page that needs no network: styles and drawings are inline."""
    return _ENVIRONMENT.get_template("report.html.j2").render(e=evaluation)


def render_markdown(evaluation: dict[str, Any]) -> str:
    """The report's first lines, for the dashboard."""
    return _ENVIRONMENT.get_template("summary.md.j2").render(e=evaluation)
