"""Word vectors from file to file: import, embed, fine-tune, export, and the suites beside gensim's."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.cli import main as cli
from encoderkit.config import validate
from encoderkit.errors import DataError, UsageError, UserError
from encoderkit.inference import open_model
from encoderkit.interop.vectors import read_vectors
from encoderkit.learner import Learner
from encoderkit.models.static import Static
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import export, suites
from encoderkit.stages.embed import embed
from encoderkit.stages.embeddings import begin_with, listed, look_up
from encoderkit.stages.import_model import run as import_model
from encoderkit.stages.import_vectors import import_vectors
from encoderkit.stages.pretrain import prepare
from encoderkit.text.tokenizers import open_tokenizer
from tests.training.runs import finetuning, go, pretraining

gensim = pytest.importorskip("gensim", reason="the reference for word vectors; it is in the extra `test`")
from gensim.models import FastText, KeyedVectors  # noqa: E402
from gensim.models.fasttext import save_facebook_model  # noqa: E402

WORDS = ["king", "queen", "man", "woman", "Paris", "paris", "france", "film", "good", "bad", "day", "the"]


@pytest.fixture(scope="module")
def keyed() -> KeyedVectors:
    vectors = KeyedVectors(8)
    table = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
    table[1] = table[0] - table[2] + table[3] + 0.1 * table[4]  # king - man + woman
    vectors.add_vectors(WORDS, table)
    return vectors


@pytest.fixture(scope="module")
def vectors_file(keyed: KeyedVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vectors.bin"
    keyed.save_word2vec_format(str(path), binary=True)
    return path


@pytest.fixture(scope="module")
def static_dir(vectors_file: Path) -> Path:
    out = vectors_file.parent / "model"
    assert import_model(str(vectors_file), out)["words"] == len(WORDS)
    return out


def test_there_and_back_again(keyed: KeyedVectors, static_dir: Path, tmp_path: Path) -> None:
    result = export.run(static_dir, ["word2vec", "word2vec-text"], tmp_path / "out")
    assert result["files"] == ["vectors.bin", "vectors.txt"] and result["words"] == len(WORDS)
    for name, binary in (("vectors.bin", True), ("vectors.txt", False)):
        found = KeyedVectors.load_word2vec_format(str(tmp_path / "out" / name), binary=binary)
        assert found.index_to_key == WORDS
        np.testing.assert_array_equal(found.vectors, keyed.vectors)


def test_a_text_is_the_mean_of_its_words(keyed: KeyedVectors, static_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the king Paris\nunheard queen\n", encoding="utf-8")
    embed(static_dir, tmp_path / "texts.txt", tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy")
    # [CLS], [SEP] and [UNK] are zero and count in the mean, which changes the length and not the direction.
    expected = np.stack([(keyed["the"] + keyed["king"] + keyed["Paris"]) / 5, keyed["queen"] / 4])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_unknown_words_of_fasttext_have_its_vectors(labelled: dict[str, Path], tmp_path: Path) -> None:
    texts = [["the", "film", "was", "lovely", "awful", "机器"]] * 30
    model = FastText(texts, vector_size=12, min_count=1, bucket=200, min_n=2, max_n=4, epochs=2, seed=1, workers=1)
    save_facebook_model(model, str(tmp_path / "fasttext.bin"))
    assert import_vectors(tmp_path / "fasttext.bin", tmp_path / "model", 512)["ngrams"] == 200
    import_model(str(tmp_path / "fasttext.bin"), tmp_path / "longer", length=2000)
    assert open_model(tmp_path / "longer").config["length"] == 2000
    for more, flag in (({"length": 2}, "--length"), ({"writes": True}, "--writes"), ({"config": tmp_path}, "--config")):
        with pytest.raises(UsageError) as error:
            import_model(str(tmp_path / "fasttext.bin"), tmp_path / "no", **more)
        assert error.value.where == flag
    (tmp_path / "texts.txt").write_text("lovelier\nfilm filmographies\n", encoding="utf-8")
    embed(tmp_path / "model", tmp_path / "texts.txt", tmp_path / "x.npy")
    expected = np.stack([model.wv["lovelier"] / 3, (model.wv["film"] + model.wv["filmographies"]) / 4])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)
    loaded = open_model(tmp_path / "model")
    np.testing.assert_allclose(look_up(loaded, ["awfully"]).vectors[0], model.wv["awfully"], atol=1e-6)
    # The n-grams are fine-tuned with the words, and those of words that only the texts have too.
    recipe = finetuning(tmp_path, labelled, checkpoint=str(tmp_path / "model"), training={"updates": 2})
    best = go(recipe, tmp_path / "tuned")["best"]
    tuned, before = open_model(Path(best)).learner.encoder, loaded.learner.encoder
    assert isinstance(tuned, Static) and isinstance(before, Static) and tuned.ngrams and before.ngrams
    assert not torch.equal(tuned.ngrams.weight, before.ngrams.weight)


def test_wordsim_is_gensims(keyed: KeyedVectors, static_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    rows = [("king", "queen", 8.5), ("man", "woman", 8), ("Paris", "france", 6), ("film", "day", 2), ("good", "bad", 5.5)]
    path.write_text("".join(f"{a}\t{b}\t{s}\n" for a, b, s in [*rows, ("king", "unheard", 1)]), encoding="utf-8")
    expected = keyed.evaluate_word_pairs(str(path), case_insensitive=False)[1].statistic
    for separator, header in (("\t", ""), (",", "Word 1,Word 2,Human (mean)\n"), (" ", "# comment\n")):
        lines = [separator.join(map(str, row)) for row in [*rows, ("king", "unheard", 1)]]
        path.write_text(header + "\r\n".join(lines), encoding="utf-8")
        found = suites.evaluate("wordsim", static_dir, [path])
        assert found["metrics"]["spearman"] == pytest.approx(expected, abs=1e-6)
        assert (found["rows"], found["covered"]) == (6, 5)
        assert f"{expected:.4f}" in suites.describe(found)
    packed = tmp_path / "pairs.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert suites.evaluate("wordsim", static_dir, [packed])["metrics"]["spearman"] == pytest.approx(expected, abs=1e-6)
    path.write_bytes(b"a,b,1\rc,d,2\r")
    with pytest.raises(DataError, match="carriage return"):
        suites.evaluate("wordsim", static_dir, [path])


def test_files_of_one_name_are_told_apart(static_dir: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "pairs.tsv" for name in ("a", "b")]
    for path, last in zip(paths, (1, 9), strict=True):
        path.parent.mkdir()
        path.write_text(f"king\tqueen\t8\nman\twoman\t7\nfilm\tday\t{last}\n", encoding="utf-8")
    found = suites.evaluate("wordsim", static_dir, paths)
    assert found["rows"] == 6 and list(found["sections"]) == list(map(str, paths))


def test_analogy_is_gensims(keyed: KeyedVectors, static_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text(
        ": family\nman king woman queen\nking man queen woman\nfilm good day bad\n"
        ": places\nking queen unheard day\nthe good bad man\n",
        encoding="utf-8",
    )
    accuracy, sections = keyed.evaluate_word_analogies(str(path), case_insensitive=False, dummy4unknown=False)
    found = suites.evaluate("analogy", static_dir, [path])
    assert found["metrics"]["accuracy"] == pytest.approx(accuracy) and accuracy > 0
    assert (found["rows"], found["covered"]) == (5, 4)
    for section in sections[:2]:
        right, wrong = len(section["correct"]), len(section["incorrect"])
        assert found["sections"][section["section"]]["accuracy"] == pytest.approx(right / (right + wrong))


def test_suites_take_any_model(pretrained_dir: Path, tmp_path: Path) -> None:
    """Of a sub-word model a word is the mean of its pieces."""
    model = open_model(find_step(pretrained_dir))
    found = look_up(model, ["film", "gardens", "💥"])
    table = model.learner.encoder.tokens.weight
    assert len(found.ids[0]) >= 1 and found.ids[2] == ()
    np.testing.assert_allclose(found.vectors[1], table[list(found.ids[1])].mean(0).detach().numpy(), atol=1e-6)
    (tmp_path / "pairs.txt").write_text("film song 5\nday morning 7\ngood bad 2\n", encoding="utf-8")
    (tmp_path / "questions.txt").write_text(": all\ngood bad warm cold\n", encoding="utf-8")
    assert suites.evaluate("wordsim", find_step(pretrained_dir), [tmp_path / "pairs.txt"])["covered"] == 3
    assert suites.evaluate("analogy", find_step(pretrained_dir), [tmp_path / "questions.txt"])["covered"] == 1


@pytest.mark.parametrize(
    ("suite", "content", "message"),
    [
        ("wordsim", "a b 1\nc d\n", "pairs:2: expected two words and a score"),
        ("wordsim", "king queen 1\nman woman 1\n", "the scores of these pairs are all the same"),
        ("wordsim", "a b 1\na c nan\n", "pairs:2: expected two words and a score"),
        ("wordsim", "xq yq 1\nzq wq 2\n", "fewer than two pairs"),
        ("analogy", ": s\na b c\n", "pairs:2: expected four words"),
        ("analogy", "xq yq zq wq\n", "of no question"),
    ],
)
def test_files_that_are_none(suite: str, content: str, message: str, static_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.evaluate(suite, static_dir, [tmp_path / "pairs"])


def starting(tokenizer: Path, store: Path, path: Path, **more: Any) -> PretrainRecipe:
    model = {"kind": "bert", "dim": 8, "layers": 1, "heads": 2, "max_length": 64}
    return pretraining(tokenizer, store, **{"model": model, "embeddings": str(path), **more})


def rows_of(learner: Learner, tokenizer: Path, word: str) -> torch.Tensor:
    id = open_tokenizer(tokenizer).find(word)
    assert id is not None
    return learner.encoder.tokens.weight[id].detach()


def test_embeddings_to_begin_with(
    keyed: KeyedVectors,
    vectors_file: Path,
    static_dir: Path,
    tokenizer_dir: Path,
    store_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fresh = prepare(starting(tokenizer_dir, store_dir, vectors_file, embeddings=None)).learner
    for path in (vectors_file, static_dir):
        material = prepare(starting(tokenizer_dir, store_dir, path))
        np.testing.assert_array_equal(rows_of(material.learner, tokenizer_dir, "film").numpy(), keyed["film"])
        other = rows_of(material.learner, tokenizer_dir, "song")
        assert torch.equal(other, rows_of(fresh, tokenizer_dir, "song"))
        assert material.inputs["embeddings"]
        known = {word for word in open_tokenizer(tokenizer_dir).pieces_as_words() if word and word.lower() in WORDS}
        assert f"vectors for {len(known)} of the " in capsys.readouterr().err


def test_embeddings_that_are_a_table_and_a_difference(
    keyed: KeyedVectors, vectors_file: Path, tokenizer_dir: Path, store_dir: Path
) -> None:
    model = {"kind": "deberta", "dim": 8, "layers": 1, "heads": 2, "buckets": 16, "max_length": 64}
    objective = {"kind": "replaced", "sharing": "gradient_disentangled", "generator": {"share": 1.0}}
    material = prepare(starting(tokenizer_dir, store_dir, vectors_file, model=model, objective=objective))
    np.testing.assert_array_equal(rows_of(material.learner, tokenizer_dir, "film").numpy(), keyed["film"])


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ({"kind": "gpt", "dim": 16, "layers": 1, "heads": 2}, "model.dim=8"),
        ({"kind": "electra", "dim": 8, "layers": 1, "heads": 2, "embedding_dim": 4}, "model.embedding_dim=null"),
        ({"kind": "bert", "dim": 16, "layers": 1, "heads": 2}, "model.embedding_dim=8"),
    ],
)
def test_embeddings_of_another_width(
    model: dict[str, Any], fix: str, vectors_file: Path, tokenizer_dir: Path, store_dir: Path
) -> None:
    """The fix makes a recipe of which the vectors are part."""
    objective = {"objective": {"kind": "causal"}} if model["kind"] == "gpt" else {}
    with pytest.raises(UsageError, match="have 8 numbers") as error:
        prepare(starting(tokenizer_dir, store_dir, vectors_file, model=model, **objective))
    assert error.value.fix == f"--set {fix}"
    key, value = fix.removeprefix("model.").split("=")
    changed = {**model, key: None if value == "null" else int(value)}
    assert prepare(starting(tokenizer_dir, store_dir, vectors_file, model=changed, **objective))


def test_embeddings_may_be_frozen(
    vectors_file: Path, tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    frozen = {"freeze": "embeddings", "updates": 2}
    recipe = starting(tokenizer_dir, store_dir, vectors_file, training=frozen)
    before = prepare(recipe).learner.encoder.tokens.weight
    after = open_model(Path(go(recipe, tmp_path / "pretrained")["best"])).learner.encoder.tokens.weight
    assert torch.equal(before, after)
    recipe = finetuning(
        tokenizer_dir, labelled, model={"kind": "lstm", "dim": 8}, embeddings=str(vectors_file), training={"updates": 3}
    )
    tuned = open_model(Path(go(recipe, tmp_path / "tuned")["best"])).learner
    first = read_vectors(vectors_file).vectors(["film"])[0][0]
    assert 0 < np.abs(rows_of(tuned, tokenizer_dir, "film").numpy() - first).max() < 0.1


def test_embeddings_that_do_not_fit_are_refused(
    vectors_file: Path, tokenizer_dir: Path, store_dir: Path, pretrained_dir: Path
) -> None:
    with pytest.raises(UsageError, match=r"8 numbers, and the embeddings of the model 16\n  fix: --set model.embedding_dim=8"):
        prepare(starting(tokenizer_dir, store_dir, vectors_file, model={"kind": "bert", "dim": 16, "layers": 1, "heads": 2}))
    with pytest.raises(UserError, match="random weights"):
        validate(FinetuneRecipe, {"checkpoint": "x", "embeddings": "y", "data": {"train": "z"}}, "recipe")
    model = open_model(find_step(pretrained_dir))
    assert listed(model).words[0] == model.tokenizer.token(5)
    with pytest.raises(UsageError):
        begin_with(model.learner, model.tokenizer, str(vectors_file))


def test_the_command(static_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.txt").write_text("king queen 9\nman woman 7\nfilm day 1\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        command = ["encoderkit", "evaluate", str(static_dir)]
        patch.setattr("sys.argv", [*command, "--suite", "wordsim", "--data", str(tmp_path / "pairs.txt"), "--json"])
        assert cli.run() == 0
        assert json.loads(capsys.readouterr().out)["covered"] == 3
        patch.setattr("sys.argv", command)
        assert cli.run() == 2
