"""The limit: the model's forward passes alone, over length-sorted batches of texts tokenized beforehand.

Reads one JSON command a line from standard input, writes one JSON result a line.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import torch

from reviewloop.inference import TextModel
from serving.predictor.batching import cheapest_batches


def texts_per_second(
    model: TextModel, batches: list[list[list[int]]], passes: int, threads: int, seconds: float
) -> float:
    """How many texts go through in a second, with ``passes`` at a time of ``threads`` threads each."""
    supply = itertools.cycle(batches)
    lock = threading.Lock()
    texts = [0] * passes
    started = time.perf_counter()

    def work(number: int) -> None:
        torch.set_num_threads(threads)
        while time.perf_counter() < started + seconds:
            with lock:
                batch = next(supply)
            model.forward(batch)
            texts[number] += len(batch)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(passes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(texts) / (time.perf_counter() - started)


def main() -> None:
    """Answer commands: ``scores`` of all texts, or the speed of forward passes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="One JSON string a line.")
    arguments = parser.parse_args()
    texts = [json.loads(line) for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    model = TextModel(arguments.model_dir)
    # Text classification, which the demo's model does, reads one window a text.
    encoded = [text.windows[0] for text in model.encode(texts)]
    batches = [[encoded[i] for i in batch] for batch in cheapest_batches([len(ids) for ids in encoded])]
    # All lengths in any stretch of the cycle, not the longest first.
    batches = batches[::7] + [batch for number, batch in enumerate(batches) if number % 7]
    for line in sys.stdin:
        command = json.loads(line)
        if command.pop("what") == "scores":
            result: object = {
                "scores": [prediction.score for prediction in model.predict(texts)],
                "mean_tokens": sum(map(len, encoded)) / len(encoded),
            }
        else:
            result = texts_per_second(model, batches, **command)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
