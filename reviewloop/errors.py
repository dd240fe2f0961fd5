"""The error tree. Every message is a sentence for a person: what was expected, what came, what to do.

ReviewLoopError
├── SpecError               loop.yaml is not valid
├── DataError               examples or annotations cannot be used
├── ObjectStoreError        an object store cannot be read or written
│   ├── ObjectNotFound
│   └── ObjectExists        a conditional write found the key taken
├── RegistryError           a version is missing or contradictory
├── LabelStudioError        Label Studio refused a request
│   └── LabelStudioUnavailable   it did not answer; trying again later can help
├── ModelLoadError          a model directory cannot be loaded
├── RolloutError            a version did not come up healthy; the previous one serves again
├── ClusterError            the Kubernetes API refused a request, or did not answer
└── PlatformError           a part of the local platform did not start or stop
"""


class ReviewLoopError(Exception):
    """Base of every error whose message may be shown to a user as it is."""


class SpecError(ReviewLoopError):
    """``loop.yaml`` is missing, not YAML, or has a field with a value that is not allowed."""


class DataError(ReviewLoopError):
    """Examples or annotations are missing or malformed."""


class ObjectStoreError(ReviewLoopError):
    """An object store cannot be reached, or refused an operation."""


class ObjectNotFound(ObjectStoreError):
    """The key does not exist."""


class ObjectExists(ObjectStoreError):
    """A write that must create the key found it already there."""


class RegistryError(ReviewLoopError):
    """A model version or alias is missing, or would be overwritten."""


class LabelStudioError(ReviewLoopError):
    """Label Studio refused a request; sending the same again will not help."""


class LabelStudioUnavailable(LabelStudioError):
    """Label Studio did not answer or answered 5xx; the request may or may not have taken effect."""


class ModelLoadError(ReviewLoopError):
    """A model directory is incomplete or does not fit its declared task."""


class RolloutError(ReviewLoopError):
    """A new version failed its checks while being deployed, and was rolled back."""


class ClusterError(ReviewLoopError):
    """The Kubernetes API refused a request, or did not answer for as long as there was time to wait."""


class PlatformError(ReviewLoopError):
    """A subprocess of the local platform did not start, died, or could not be stopped."""
