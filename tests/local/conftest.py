"""What the tests of commands share with others: the object store."""

from tests.reviewloop.conftest import s3

__all__ = ["s3"]
