"""The nouns every part of the loop shares: spec, records, task types, object store, registry, Label Studio.

Nothing here imports kfp, kserve, torch or transformers, so that the serving image, the training image
and the command line all can use it.
"""

__version__ = "0.1.0"
