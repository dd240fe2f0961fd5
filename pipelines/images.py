"""The images of the steps and of serving: from the file that ``make push`` writes, as the manifests are."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.image import IMAGE, IMAGE_VARIABLE
from reviewloop import __version__
from reviewloop.errors import SpecError

IMAGES_FILE = Path("k8s/images/kustomization.yaml")

_COMPONENTS = "ghcr.io/reviewloop/components"
_SERVING = "ghcr.io/reviewloop/serving"


@dataclass(frozen=True, slots=True)
class Images:
    """What a cluster pulls: by digest where it is known, else by tag."""

    components: str
    serving: str

    @property
    def pinned(self) -> bool:
        """Whether both names stand for the same bytes for ever."""
        return "@" in self.components and "@" in self.serving


def read_images(path: Path = IMAGES_FILE) -> Images:
    """The images that the kustomize component in ``path`` names; the released ones where there is no such file.

    ``REVIEWLOOP_IMAGE`` in the environment takes the place of the components' image.

    Raises:
        SpecError: the file is not a kustomization, or an entry in it has no name.
    """
    named = {_COMPONENTS: IMAGE, _SERVING: f"{_SERVING}:{__version__}"}
    if path.exists():
        try:
            entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("images") or []
            named |= {entry["name"]: _image(entry) for entry in entries}
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise SpecError(
                f"{path}: expected a kustomization with a list of images, each with a name ({error}). "
                "`make push` writes it."
            ) from None
    return Images(os.environ.get(IMAGE_VARIABLE) or named[_COMPONENTS], named[_SERVING])


def _image(entry: dict[str, Any]) -> str:
    name = str(entry.get("newName") or entry["name"])
    if digest := entry.get("digest"):
        return f"{name}@{digest}"
    return f"{name}:{entry.get('newTag') or __version__}"
