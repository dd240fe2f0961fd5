"""The images: what they install is what their code imports, and what is copied in makes the right package."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.k8s.manifests import ROOT

# The first of its packages is shared; what that imports lazily, not every image needs.
IMAGES = {"components": ("reviewloop", "components", "pipelines"), "serving": ("reviewloop", "serving")}
BUILD_TOOLS = {"pip", "setuptools", "wheel"}


def dockerfile(image: str) -> str:
    return (ROOT / image / "Dockerfile").read_text(encoding="utf-8")


def declared(extra: str) -> Iterator[Requirement]:
    """What the project itself asks for, with this extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        yield Requirement(line)


def installed_by(image: str) -> set[str]:
    """The distributions that pip installs for the image's extra, but for what its Dockerfile removes again."""
    found: set[str] = set()
    waiting = [(requirement.name, extra) for requirement in declared(image) for extra in ("", *requirement.extras)]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(canonicalize_name(name))
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, further) for further in ("", *requirement.extras)]
    removed = re.search(r"pip --python /opt/reviewloop uninstall --yes (.*) ", dockerfile(image))
    return found - set(removed[1].split() if removed else ())


def imported(package: Path) -> set[str]:
    """The names of every module that the package imports, also within functions."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil, sys
sys.path[:0] = sys.argv[1:3]
packages, names = sys.argv[3].split(","), sys.argv[4].split(",")
for package in packages:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
missing = [name for name in names if importlib.util.find_spec(name) is None]
assert not missing, f"not installed: {missing}"
"""


@pytest.mark.parametrize("image", IMAGES)
def test_the_code_of_an_image_imports_with_nothing_but_what_the_image_installs(image: str, tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    site.mkdir()
    source.mkdir()
    for name in installed_by(image):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(metadata.distribution(name).locate_file(top))
    for package in IMAGES[image]:
        (source / package).symlink_to(ROOT / package)
    names = set[str]().union(*(imported(ROOT / package) for package in IMAGES[image][1:]))
    result = subprocess.run(
        # -S: without the environment's own packages; -I: without the checkout.
        [
            *(sys.executable, "-I", "-S", "-W", "ignore", "-c", IMPORT_EVERYTHING),
            *(str(site), str(source), ",".join(IMAGES[image]), ",".join(sorted(names))),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_serving_has_no_kfp_components_no_kserve_and_neither_a_build_tool() -> None:
    serving, components = installed_by("serving"), installed_by("components")
    assert not {"kfp", "kfp-kubernetes", "kfp-server-api", "datasets", "accelerate"} & serving
    assert "kserve" not in components
    assert {"kfp", "kfp-kubernetes", "model-registry"} <= components
    assert not (serving | components) & BUILD_TOOLS


@pytest.mark.parametrize("image", IMAGES)
def test_everything_installed_has_an_exact_version(image: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert installed_by(image) <= pinned


def test_the_development_environment_has_everything() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert "reviewloop[local]" in extras["dev"]
    assert "reviewloop[components,serving]" in extras["local"]


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_is_clean(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / image / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_runs_as_any_user_and_writes_only_to_its_cache(image: str) -> None:
    final = dockerfile(image).split("\nFROM ")[-1]
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["10001:0"]
    assert "install --directory --owner=10001 --group=0 --mode=2775 /cache" in final
    assert "pip uninstall --yes" in final
    assert "pip install" not in final
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert re.search(rf"\b{name}=/cache", final), name


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_into_the_build_makes_a_package_of_the_right_code(image: str, tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(image), re.MULTILINE):
        *origins, target = line.split()
        for origin in origins:
            copy_as_docker_does(ROOT / origin, source / target)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
            *("--wheel-dir", str(wheels), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        if image == "components":
            manifest = archive.read("components/deploy/inference-service.yaml")
            assert manifest == (ROOT / "k8s" / "base" / "inference-service.yaml").read_bytes()
    assert {name.partition("/")[0] for name in files} == set(IMAGES[image])
    in_tree = {
        path.relative_to(ROOT).as_posix() for package in IMAGES[image] for path in (ROOT / package).rglob("*.py")
    }
    assert in_tree <= files


def copy_as_docker_does(origin: Path, target: Path) -> None:
    """A directory's content, or a file to the name or into the directory; links stay links."""
    if origin.is_dir():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(origin, target, symlinks=True, ignore=ignore, dirs_exist_ok=True)
    else:
        into = target if target.name == origin.name else target / origin.name
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(origin, into)


def test_the_build_context_holds_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    for image in IMAGES:
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(image), re.MULTILINE):
            for origin in line.split()[:-1]:
                assert any(origin == path or origin.startswith(f"{path}/") for path in kept), origin
