"""New versions take over while requests keep coming, and none fails."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from reviewloop.inference import InferenceSettings, TextModel
from tests.serving.processes import MODEL, predictor, running, transformer
from tests.tiny_model import write_tiny_model

TEXTS = ["the movie was great", "awful phone , it broke", "okay", "i love this screen and the story is really good !"]


def test_versions_swap_under_load_without_a_failure(tmp_path: Path) -> None:
    versions = [write_tiny_model(tmp_path / f"v{n}", version=f"v{n}", seed=n) for n in (1, 2, 3)]
    expected = {
        path.name: [list(p.answer["probabilities"].values()) for p in TextModel(path).predict(TEXTS)]
        for path in versions
    }
    current = tmp_path / "current"
    current.symlink_to(versions[0])
    back = predictor(current, tmp_path / "back.log")
    front = transformer(back.url, tmp_path / "front.log", "--review", "off")
    seen: set[str] = set()
    problems: list[str] = []
    answered = 0
    done = threading.Event()

    def client() -> None:
        nonlocal answered
        while not done.is_set():
            response = front.post_v1({"instances": TEXTS})
            if response.status_code != 200:
                problems.append(response.text)
                continue
            answered += 1
            for row, prediction in enumerate(response.json()["predictions"]):
                version = prediction["model_version"]
                seen.add(version)
                got = list(prediction["probabilities"].values())
                if not np.allclose(got, expected[version][row], atol=1e-2):
                    problems.append(f"{version} does not answer {got} to text {row}")

    def point_to(path: Path) -> None:
        link = tmp_path / "next"
        link.symlink_to(path)
        link.replace(current)

    with running(front, back):
        back.wait_until()
        front.wait_until()
        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients:
            thread.start()
        try:
            for path in (versions[1], versions[2], versions[0], versions[1]):
                point_to(path)
                assert back.post(f"/v2/repository/models/{MODEL}/load", b"").status_code == 200
                # From the moment that the load request is answered, the new version is the one that answers.
                assert back.predict("okay")[0]["model_version"] == path.name
                assert back.get(f"/v2/models/{MODEL}").json()["versions"] == [path.name]
            empty, damaged, unfit = (tmp_path / name for name in ("empty", "damaged", "unfit"))
            empty.mkdir()
            (write_tiny_model(damaged) / "model.safetensors").write_bytes(b"cut short")
            # It loads, but could not make a prediction of any text.
            replace(InferenceSettings.load(write_tiny_model(unfit)), task="multi-label-classification").save(unfit)
            for path in (empty, damaged, unfit):
                point_to(path)
                response = back.post(f"/v2/repository/models/{MODEL}/load", b"")
                assert response.status_code == 503
                assert "could not be loaded" in response.json()["error"]
                assert back.predict("okay")[0]["model_version"] == "v2"
        finally:
            done.set()
            for thread in clients:
                thread.join()
    assert problems == []
    assert seen == {"v1", "v2", "v3"}
    assert answered > 50
    assert "Traceback" not in back.log + front.log
