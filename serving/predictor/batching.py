"""How texts become forward passes: which batches cost least, and the queue that runs them on threads."""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from reviewloop.inference import TOKEN_BUDGET, TextModel
from reviewloop.records import Prediction
from reviewloop.task_types import EncodedText
from reviewloop.task_types.base import Probabilities
from serving.errors import ServingError, Unavailable

FORWARD_OVERHEAD_TOKENS = 30
"""What starting a forward pass costs, in padded tokens (MiniLM on a CPU core: 2 ms a pass, 0.07 a token)."""

SORTED_TOKENS = 4 * TOKEN_BUDGET
"""About how much is taken from the queue at a time and sorted by length. More pads less, but waits longer."""

MAX_WAITING_TOKENS = 256 * TOKEN_BUDGET
"""About how much may wait before requests are shed: some ten seconds of work on two CPU cores.

All that one transformer sends at a time fits, so that a large request is not shed for its own sake.
"""

CHARACTERS_PER_TOKEN = 4
FORWARD_NICENESS = 5

logger = logging.getLogger(__name__)


def cheapest_batches(lengths: Sequence[int], token_budget: int = TOKEN_BUDGET) -> list[list[int]]:
    """Split indices into batches of like length so that their forward passes together cost least.

    A batch costs its padded tokens (longest window times size) plus :data:`FORWARD_OVERHEAD_TOKENS`; dynamic
    programming over the sorted lengths finds the cheapest cuts. No batch exceeds ``token_budget`` padded
    tokens unless it is a single window. Most expensive first, so that two threads end at about the same time.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    # Between windows of the same length no cut is better than those at the ends of their run.
    inner = [cut for cut in range(1, len(order)) if lengths[order[cut]] != lengths[order[cut - 1]]]
    cuts = sorted({0, *inner, len(order)})
    costs, previous = [0], [0]
    for stop in range(1, len(cuts)):
        longest = lengths[order[cuts[stop] - 1]]
        options = [
            costs[start] + _forward_cost(longest, cuts[stop] - cuts[start], token_budget) for start in range(stop)
        ]
        costs.append(min(options))
        previous.append(options.index(costs[stop]))
    batches: list[list[int]] = []
    stop = len(cuts) - 1
    while stop > 0:
        start = previous[stop]
        members = order[cuts[start] : cuts[stop]]
        rows = max(1, token_budget // lengths[members[-1]])
        batches.extend(members[row : row + rows] for row in range(0, len(members), rows))
        stop = start
    return sorted(batches, key=lambda batch: -lengths[batch[-1]] * len(batch))


def _forward_cost(longest: int, size: int, token_budget: int) -> int:
    rows = max(1, token_budget // longest)
    return longest * size + FORWARD_OVERHEAD_TOKENS * -(-size // rows)


@dataclass(slots=True, eq=False)
class _Request:
    texts: Sequence[str]
    tokens: list[int]
    results: list[Prediction | None]
    answered: "asyncio.Future[None]"
    loop: asyncio.AbstractEventLoop
    missing: int
    taken: int = 0


_Place = tuple[_Request, int]
"""A text: its request, and its index there."""


@dataclass(slots=True, eq=False)
class _Text:
    """An encoded text, and the probabilities of those of its windows that are done."""

    place: _Place
    encoded: EncodedText
    done: dict[int, Probabilities] = field(default_factory=dict)

    @property
    def probabilities(self) -> list[Probabilities]:
        """Of all windows in their order, once all are done."""
        return [self.done[number] for number in range(len(self.encoded.windows))]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows (a text, and which of its windows) with the model whose tokenizer encoded them."""

    model: TextModel
    windows: list[tuple[_Text, int]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """Texts taken from the queue, not yet encoded, and the model they will stay with."""

    model: TextModel
    places: list[_Place]


class PredictionQueue:
    """Texts of all requests, predicted together on ``threads`` worker threads.

    A free worker takes what waits at that moment, up to :data:`SORTED_TOKENS`, tokenizes it, and splits the
    windows of the texts into batches that all workers share; a text is predicted with the last of its windows.
    Nothing waits for a timer, and texts are first come first served. Several single-threaded workers beat one
    multi-threaded forward pass here: short sequences give a team of threads too little to share.
    """

    def __init__(self, threads: int, torch_threads: int) -> None:
        """``torch_threads`` is the number of threads inside each worker's forward pass."""
        self._torch_threads = torch_threads
        self._model: TextModel | None = None
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._waiting_tokens = 0
        self._ready: deque[_Batch] = deque()
        self._encoding = False
        self._completing = threading.Lock()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"forward-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def model(self) -> TextModel | None:
        """The model that takes the next texts; None until the first :meth:`swap`."""
        return self._model

    def swap(self, model: TextModel) -> None:
        """Use ``model`` for the texts taken from now on; what is encoded already finishes on its own model."""
        with self._changed:
            self._model = model

    async def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Predictions in the order of ``texts``. Cancelling drops those texts that have not been taken yet.

        Raises:
            Unavailable: there is no model yet, or too much waits already.
        """
        model = self._model
        if model is None:
            raise Unavailable("The server has no model to answer with. Try again in a moment.")
        tokens = [len(text) // CHARACTERS_PER_TOKEN + 3 for text in texts]
        if not model.task.reads_to_end:
            tokens = [min(count, model.settings.max_length) for count in tokens]
        loop = asyncio.get_running_loop()
        request = _Request(texts, tokens, [None] * len(texts), loop.create_future(), loop, len(texts))
        with self._changed:
            total = sum(tokens)
            if self._waiting_tokens and self._waiting_tokens + total > MAX_WAITING_TOKENS:
                raise Unavailable("The server has more texts waiting than it can take. Try again in a moment.")
            self._waiting.append(request)
            self._waiting_tokens += total
            self._changed.notify()
        await request.answered
        return request.results  # type: ignore[return-value]

    def stop(self) -> None:
        """End the workers once everything that waits is done."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        torch.set_num_threads(self._torch_threads)
        # A forward pass can wait a moment; what takes requests in, answers them or commits cannot.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FORWARD_NICENESS)
        while (work := self._next()) is not None:
            if isinstance(work, _Batch):
                self._forward(work)
            else:
                self._encode(work)

    def _next(self) -> _Batch | _Taken | None:
        with self._changed:
            while True:
                if self._ready:
                    return self._ready.popleft()
                # One worker encodes at a time: a tokenizer is not safe to share between threads.
                if not self._encoding:
                    if self._model is not None and (places := self._take()):
                        self._encoding = True
                        return _Taken(self._model, places)
                    if self._stopped:
                        return None
                self._changed.wait()

    def _take(self) -> list[_Place]:
        places: list[_Place] = []
        total = 0
        while self._waiting:
            request = self._waiting[0]
            while request.taken < len(request.texts):
                if total > SORTED_TOKENS:
                    return places
                tokens = request.tokens[request.taken]
                if not request.answered.done():
                    places.append((request, request.taken))
                    total += tokens
                request.taken += 1
                self._waiting_tokens -= tokens
            self._waiting.popleft()
        return places

    def _encode(self, taken: _Taken) -> None:
        batches: list[_Batch] = []
        try:
            encoded = taken.model.encode([request.texts[index] for request, index in taken.places])
            texts = map(_Text, taken.places, encoded)
            windows = [(text, number) for text in texts for number in range(len(text.encoded.windows))]
            for members in cheapest_batches([len(text.encoded.windows[number]) for text, number in windows]):
                batches.append(_Batch(taken.model, [windows[member] for member in members]))
        except Exception as error:
            batches.clear()
            _fail(taken.places, error)
        finally:
            with self._changed:
                self._ready.extend(batches)
                self._encoding = False
                self._changed.notify_all()

    def _forward(self, batch: _Batch) -> None:
        try:
            probabilities = batch.model.forward([text.encoded.windows[number] for text, number in batch.windows])
            texts = self._completed(batch, probabilities)
            predictions = [batch.model.prediction(text.encoded, text.probabilities) for text in texts]
        except Exception as error:
            _fail(list({text.place for text, _ in batch.windows}), error)
            return
        if texts:
            places = [text.place for text in texts]
            _call(places[0][0].loop, _deliver, places, predictions)

    def _completed(self, batch: _Batch, probabilities: Iterable[Probabilities]) -> list[_Text]:
        """Note the probabilities of the batch's windows; the texts whose last window was among them."""
        texts = []
        with self._completing:
            for (text, number), values in zip(batch.windows, probabilities, strict=True):
                text.done[number] = values
                if len(text.done) == len(text.encoded.windows):
                    texts.append(text)
        return texts


def _deliver(places: Iterable[_Place], predictions: Iterable[Prediction]) -> None:
    for (request, index), prediction in zip(places, predictions, strict=True):
        request.results[index] = prediction
        request.missing -= 1
        if request.missing == 0 and not request.answered.done():
            request.answered.set_result(None)


def _fail(places: Sequence[_Place], error: Exception) -> None:
    # Only the kind of error: its message could hold a text.
    logger.error("A batch of %d texts failed: %s", len(places), type(error).__name__)
    _call(places[0][0].loop, _deliver_failure, {request for request, _ in places})


def _deliver_failure(requests: Iterable[_Request]) -> None:
    for request in requests:
        if not request.answered.done():
            request.answered.set_exception(ServingError("The model failed on this request. The log says how."))


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        logger.warning("The server stopped before an answer could be delivered.")
