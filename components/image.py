"""The container image a component says it runs in; what a cluster is given is set when the pipeline is compiled."""

from reviewloop import __version__

IMAGE_VARIABLE = "REVIEWLOOP_IMAGE"
"""Names the image that a step really runs in, for the lineage."""

IMAGE = f"ghcr.io/reviewloop/components:{__version__}"
