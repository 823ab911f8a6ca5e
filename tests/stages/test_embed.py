"""`embed`: vectors in the order of the input, the same as one text at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step
from encoderkit.stages import predict as predict_stage
from encoderkit.stages.embed import embed

TEXTS = ["the film was good", "", "the garden was sad and cold. " * 9, "a song"]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def _mean(step: Path, text: str) -> np.ndarray:
    """The mean over all tokens, special ones included."""
    model = open_model(step)
    ids = model.tokenizer.encode([text]).ids[: model.config["length"] - 2].astype(np.int64)
    ids = torch.from_numpy(np.array([model.tokenizer.cls, *ids, model.tokenizer.sep]))[None]
    with torch.inference_mode():
        return model.learner.encoder(Inputs.of(ids))[0].mean(0).numpy()


@pytest.mark.parametrize("window", [3, 4096])
def test_mean_is_that_of_each_text_alone(
    classifier_dir: Path, pretrained_dir: Path, window: int, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_stage, "WINDOW", window)
    for step in (find_step(classifier_dir), find_step(pretrained_dir)):
        out = text_file.with_name("x.npy")
        result = embed(step, text_file, out, precision="fp32", overwrite=True)
        found = np.load(out)
        assert found.dtype == np.float32 and found.shape == (4, 32) == (result["rows"], result["dim"])
        np.testing.assert_allclose(found, [_mean(step, text) for text in TEXTS], atol=1e-5)
        assert result["truncated"]["rows"] == 1


def test_normalized(classifier_dir: Path, text_file: Path) -> None:
    step, plain, unit = find_step(classifier_dir), text_file.with_name("a.npy"), text_file.with_name("b.npy")
    embed(step, text_file, plain, "max", precision="fp32")
    embed(step, text_file, unit, "max", normalize=True, precision="fp32")
    vectors = np.load(plain)
    np.testing.assert_allclose(np.load(unit), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)


def test_pairs(pairs_dir: Path, pairs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(find_step(pairs_dir), pairs["dev"], tmp_path / "x.npy")["rows"] == 20
    assert embed(find_step(pairs_dir), pairs["dev"], tmp_path / "y.npy", columns=["first"])["truncated"]["rows"] == 0
    assert "was not trained for it" not in capsys.readouterr().err
    assert embed(find_step(pairs_dir), pairs["dev"], tmp_path / "z.npy", dimensions=4)["dim"] == 4
    assert "--dimensions 4: the model was not trained for it" in capsys.readouterr().err


def test_what_cannot_be_written(classifier_dir: Path, text_file: Path) -> None:
    step, out = find_step(classifier_dir), text_file.with_name("x.npy")
    with pytest.raises(UsageError, match=r"as \.npy"):
        embed(step, text_file, out.with_suffix(".bin"))
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        embed(step, text_file, out)
    empty = text_file.with_name("empty.txt")
    empty.touch()
    with pytest.raises(DataError, match="holds no row"):
        embed(step, empty, out, overwrite=True)
    assert out.read_bytes() == b"mine"
    assert sorted(path.name for path in out.parent.iterdir()) == ["empty.txt", "in.txt", "x.npy"]
