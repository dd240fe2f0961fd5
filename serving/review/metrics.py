"""What Prometheus sees of predictions and of the review queue."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from reviewloop.records import Prediction, ReviewItem
from serving.review.outbox import Outbox, OutboxError

PREDICTIONS = Counter("reviewloop_predictions", "Predictions answered.", ["model_version", "label"])
ROUTINGS = Counter("reviewloop_routings", "Predictions routed to review.", ["reason"])
FAILURES = Counter("reviewloop_outbox_write_failures", "Predictions due for review that the outbox could not take.")


def count_predictions(predictions: Iterable[Prediction]) -> None:
    """Count answered predictions by the version that made them and by label."""
    for (version, label), number in Tally((p.model_version, p.label) for p in predictions).items():
        PREDICTIONS.labels(version, label).inc(number)


def count_routings(items: Iterable[ReviewItem]) -> None:
    """Count items that were routed to review by reason."""
    for reason, number in Tally(item.reason for item in items).items():
        ROUTINGS.labels(reason).inc(number)


class OutboxCollector(Collector):
    """Reads the outbox when Prometheus asks, so that no replica reports a stale depth."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Depth, age and refusals; nothing while the outbox cannot be read."""
        try:
            counts = self._outbox.counts()
        except OutboxError:
            return
        yield GaugeMetricFamily("reviewloop_outbox_depth", "Review items on their way to Label Studio.", counts.depth)
        yield GaugeMetricFamily(
            "reviewloop_outbox_oldest_age_seconds", "Age of the oldest of them.", counts.oldest_age_s
        )
        yield GaugeMetricFamily("reviewloop_outbox_refused", "Review items that Label Studio refused.", counts.refused)
