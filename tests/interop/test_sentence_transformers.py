"""Models that make vectors of texts, to and from the form of sentence-transformers: the way they make them goes along."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoderkit.inference import open_model
from encoderkit.interop.sentence_transformers import modules, read_modules
from encoderkit.stages import export, import_model
from encoderkit.stages.embed import embed
from encoderkit.tasks.similarity import Similarity
from tests.interop.test_import import published, transformers

TEXTS = ["the film is good", "bad film"]


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_vectors_are_made_as_they_were(pooling: str, tmp_path: Path) -> None:
    """A published model, with what sentence-transformers reads: imported, exported, imported; by hand, and by that library."""
    theirs = published(tmp_path / "hf", "Bert", "Model")
    for name, data in modules(pooling, 24, 40).items():  # pyright: ignore[reportArgumentType]
        (tmp_path / "hf" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "hf" / name).write_bytes(data)
    found = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert found["head"] == "none" and isinstance(open_model(tmp_path / "ours").learner, Similarity)
    (tmp_path / "x.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert embed(tmp_path / "ours", tmp_path / "x.txt", tmp_path / "x.npy", precision="fp32")["pooling"] == pooling

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.inference_mode():
        for text, vector in zip(TEXTS, np.load(tmp_path / "x.npy"), strict=True):
            hidden = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected = {"cls": hidden[0], "mean": hidden.mean(0), "max": hidden.amax(0), "last": hidden[-1]}[pooling]
            assert vector == pytest.approx(expected.numpy(), abs=1e-5)

    done = export.run(tmp_path / "ours", ["hf"], tmp_path / "again")
    assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} < {*done["files"]} and done["parity"]
    assert (tmp_path / "again/1_Pooling/config.json").read_bytes() == (tmp_path / "hf/1_Pooling/config.json").read_bytes()
    assert json.loads((tmp_path / "again/sentence_bert_config.json").read_bytes())["max_seq_length"] == 40
    import_model.run(str(tmp_path / "again"), tmp_path / "once more")
    assert open_model(tmp_path / "once more").config["length"] == 40
    embed(tmp_path / "once more", tmp_path / "x.txt", tmp_path / "y.npy", precision="fp32")
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy"))

    library = pytest.importorskip("sentence_transformers")
    loaded = library.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), np.load(tmp_path / "x.npy"), atol=1e-5)
    loaded.save(str(tmp_path / "saved"))  # which writes the files in the form of its own version
    import_model.run(str(tmp_path / "saved"), tmp_path / "of it")
    assert embed(tmp_path / "of it", tmp_path / "x.txt", tmp_path / "z.npy", precision="fp32")["pooling"] == pooling
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.load(tmp_path / "z.npy"))


def test_what_has_no_place_here_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dense layer, two ways at once; a model in a folder of its own; a directory of transformers alone."""
    (tmp_path / "1_Pooling").mkdir()
    assert read_modules(tmp_path) is None
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    modes = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(modes), encoding="utf-8")
    assert read_modules(tmp_path) == (tmp_path / "0_Transformer", None, None)
    said = capsys.readouterr().err
    for told in ("makes vectors of length 1", "Dense of", "has no place here", "is not known here"):
        assert told in said
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}), encoding="utf-8")
    (tmp_path / "0_Transformer").mkdir()
    limit = tmp_path / "0_Transformer/sentence_bert_config.json"
    limit.write_text(json.dumps({"max_seq_length": 256, "do_lower_case": True}), encoding="utf-8")
    found = read_modules(tmp_path)
    assert found and found[1:] == ("last", 256)
    said = capsys.readouterr().err
    assert "do_lower_case" in said and "is not known here" not in said
    limit.write_text(json.dumps({"max_seq_length": None}), encoding="utf-8")
    (tmp_path / "0_Transformer/tokenizer_config.json").write_text('{"model_max_length": 384}', encoding="utf-8")
    found = read_modules(tmp_path)
    assert found and found.length == 384 and "is not known here" not in capsys.readouterr().err
