"""What most people deploy: a KServe model around a transformers pipeline, all settings at their defaults."""

from typing import Any

import kserve
from transformers import pipeline


class PlainModel(kserve.Model):
    """Answers one request at a time, in fp32, on the event loop."""

    def __init__(self, name: str, model_dir: str) -> None:
        super().__init__(name)
        self._model_dir = model_dir

    def load(self) -> bool:
        """Make the pipeline."""
        self._pipeline = pipeline("text-classification", model=self._model_dir, dtype="float32")
        self.ready = True
        return True

    def predict(self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        """V1 in, V1 out."""
        return {"predictions": self._pipeline(payload["instances"], top_k=None, truncation=True)}


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True)
    arguments = parser.parse_args()
    model = PlainModel(arguments.model_name, arguments.model_dir)
    model.load()
    kserve.ModelServer().start([model])
