"""The predictor as a KServe model: it loads, warms up, and swaps in new versions while it answers."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import torch
from kserve.utils.utils import cpu_count

from reviewloop.errors import ModelLoadError
from reviewloop.inference import INFERENCE_FILE, TOKEN_BUDGET, TextModel, inference_device
from reviewloop.task_types import TaskType
from serving.errors import Unavailable
from serving.predictor.batching import PredictionQueue
from serving.protocol import TextRequest, prediction_fields
from serving.server import ServedModel

MAX_WORKERS = 4
"""With more CPU cores than this, each worker's forward pass gets several threads instead."""

logger = logging.getLogger(__name__)


class TextPredictor(ServedModel):
    """Serves the model in ``model_dir``, which may be a link that a rollout points to another version."""

    def __init__(self, name: str, model_dir: Path) -> None:
        super().__init__(name)
        self.model_dir = model_dir
        # On CUDA one stream of forward passes is enough, and each uses the whole device.
        workers = 1 if inference_device().type == "cuda" else min(cpu_count(), MAX_WORKERS)
        self._torch_threads = max(1, cpu_count() // workers)
        self._queue = PredictionQueue(workers, self._torch_threads)
        self._loading = asyncio.Lock()
        self._stopped = asyncio.Event()

    @property
    def versions(self) -> list[str]:
        """The version that answers, as the only element; empty while there is none."""
        model = self._queue.model
        return [] if model is None else [model.version]

    @property
    def task(self) -> TaskType | None:
        """The task type of the model that answers; None while there is none."""
        model = self._queue.model
        return None if model is None else model.task

    async def start_engine(self) -> None:
        """Load what ``model_dir`` holds, if anything, and stay until :meth:`stop_engine`."""
        if await asyncio.to_thread((self.model_dir / INFERENCE_FILE).exists):
            try:
                await self.reload()
            except Unavailable as error:
                logger.error("%s The server waits for another version.", error)
        else:
            logger.info("%s holds no model yet; the server waits for one to be deployed.", self.model_dir)
        await self._stopped.wait()

    def stop_engine(self) -> None:
        super().stop_engine()
        self._stopped.set()
        self._queue.stop()

    async def reload(self) -> None:
        """Load ``model_dir`` again, warm it up, then let it answer. Until then the present model answers.

        Raises:
            Unavailable: it cannot be loaded; the present model, if any, goes on.
        """
        async with self._loading:
            model_dir = await asyncio.to_thread(self.model_dir.resolve)
            try:
                model = await asyncio.to_thread(self._load_warm, model_dir)
            except ModelLoadError as error:
                raise Unavailable(f"The model could not be loaded: {error}") from None
            except Exception as error:  # A damaged file surfaces as almost anything, from several libraries.
                raise Unavailable(
                    f"The model in {model_dir} could not be loaded: {type(error).__name__}: {error}. Deploy it again."
                ) from None
            self._queue.swap(model)
            self.ready = True
            logger.info("Version %s of model %s answers now.", model.version, self.name)

    async def predict(self, payload: TextRequest, headers: Any = None) -> list[dict[str, Any]]:
        """One prediction a text, with the threshold that its version routes by."""
        predictions = await self._queue.predict(payload.texts)
        return [prediction_fields(p) | {"threshold": p.threshold} for p in predictions]

    def _load_warm(self, model_dir: Path) -> TextModel:
        torch.set_num_threads(self._torch_threads)
        model = TextModel(model_dir)
        # A model that fails on any text must not take over.
        model.predict(["warm"])
        # The first pass over a shape is slow: kernels are chosen and memory is allocated.
        for tokens in (4, 16, 64, model.settings.max_length):
            length = min(tokens, model.settings.max_length)
            window = model.encode(["warm " * length])[0].windows[0]
            for rows in (1, max(1, TOKEN_BUDGET // (4 * length))):
                model.forward([window] * rows)
        return model
