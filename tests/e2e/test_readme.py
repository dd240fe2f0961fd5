"""Every command in the README runs, in order, in a fresh copy of the checkout, and does what the README says.

Among them is `make demo`: the whole loop with the real model, Label Studio and KServe servers.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from reviewloop.spec import LoopSpec
from tests.e2e.conftest import ROOT, processes_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN_HERE = {
    "make test",  # It runs this.
    "source .venv/bin/activate",  # The environment fixture does that.
}


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line for line in lines if line and not line.startswith(("#", "git clone", "cd ")) and line not in NOT_RUN_HERE
    ]


def run(command: str, checkout: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=540, check=False
    )


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.timeout(1500)
def test_every_command_in_the_readme_works(checkout: Path, environment: dict[str, str]) -> None:
    for command in commands():
        result = run(command, checkout, environment)
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        assert "Traceback" not in result.stdout + result.stderr, command
    assert processes_of(checkout) == []


@pytest.mark.timeout(60)
def test_the_demo_showed_what_it_claims(checkout: Path) -> None:
    demo = checkout / "build" / "demo"
    summary = json.loads((demo / "summary.json").read_text())
    base, retrained, reviews = summary["base"], summary["retrained"], summary["reviews"]

    assert summary["promotion"]["verdict"] == "promoted"
    assert summary["promotion"]["interval"][0] > 0
    assert retrained["amazon_accuracy"] - base["amazon_accuracy"] == pytest.approx(summary["promotion"]["delta"])
    assert retrained["amazon_accuracy"] >= 0.69
    assert retrained["movies_accuracy"] >= base["movies_accuracy"] - 0.015
    assert retrained["ece"] < base["ece"]
    assert reviews["tasks"] == reviews["routed"] == reviews["low_confidence"] + reviews["audit"] <= 600
    assert reviews["annotations"] == 3 * reviews["tasks"]
    assert reviews["failed"] == summary["swap"]["failed"] == 0
    assert summary["swap"]["requests_during"] > 0
    assert summary["swap"]["versions_seen"] == ["v0001", "v0002"]
    assert "http" not in re.findall(r'(?:src|href)="([^"]*)', (demo / "report.html").read_text())


@pytest.mark.timeout(60)
def test_the_demo_trained_on_no_test_text_and_logged_no_text(checkout: Path) -> None:
    demo, assets = checkout / "build" / "demo", checkout / "build" / "assets"
    trained = {
        text
        for path in demo.glob("pipeline/*/data-merge/dataset/*.jsonl")
        if path.stem in ("train", "validation")
        for text in texts(path)
    }
    assert len(trained) > 2000
    assert not trained & set(texts(assets / "amazon-test.jsonl"))

    logs = "".join(path.read_text(errors="replace") for path in (demo / "logs").glob("*.log"))
    assert not [text for text in texts(assets / "amazon-traffic.jsonl")[:1000] if len(text) > 30 and text in logs]


def test_the_readme_explains_every_setting() -> None:
    def names(model: type, prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and hasattr(section, "model_fields"):
                found += names(section, f"{prefix}{name}.")
            else:
                found.append(f"`{prefix}{name}`")
        return found

    documents = README + (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert [name for name in names(LoopSpec) if name not in documents] == []
