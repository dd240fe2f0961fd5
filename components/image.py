"""The container image a component says it runs in; what a cluster is given is set when the pipeline is compiled."""

from reviewloop import __version__

IMAGE = f"ghcr.io/reviewloop/components:{__version__}"
