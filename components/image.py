"""The container image every component runs in, set when the pipeline is compiled."""

import os

from reviewloop import __version__

IMAGE = os.environ.get("REVIEWLOOP_IMAGE", f"ghcr.io/reviewloop/components:{__version__}")
