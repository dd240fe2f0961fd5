"""What Prometheus sees of predictions and of the review queue."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from reviewloop.records import Prediction, ReviewItem
from reviewloop.task_types import TaskType
from serving.review.outbox import Outbox, OutboxError

NO_LABEL = "none"
"""What a prediction counts as that holds no label."""

PREDICTIONS = Counter("reviewloop_predictions", "Labels that predictions hold.", ["model_version", "label"])
ROUTINGS = Counter("reviewloop_routings", "Predictions routed to review.", ["reason"])
FAILURES = Counter("reviewloop_outbox_write_failures", "Predictions due for review that the outbox could not take.")


def count_predictions(task: TaskType, predictions: Iterable[Prediction]) -> None:
    """Count answered predictions by the version that made them and by label, once for each that they hold."""
    held = Tally(
        (prediction.model_version, label)
        for prediction in predictions
        for label in task.names(task.answered(prediction.answer)) or (NO_LABEL,)
    )
    for (version, label), number in held.items():
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
