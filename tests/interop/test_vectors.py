"""Word vectors in the formats they are published in, beside gensim's readers."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from encoderkit.errors import DataError
from encoderkit.interop.vectors import read_vectors

gensim = pytest.importorskip("gensim", reason="the reference for word vectors; it is in the extra `test`")
from gensim.models import FastText, KeyedVectors  # noqa: E402
from gensim.models.fasttext import load_facebook_model, save_facebook_model  # noqa: E402

REAL = Path(__file__).parents[3] / "shared" / "data" / "word_vectors_small"
WORDS = ("the", "naïve", "机器", "New_York", "a😀b", "</s>", "x")


@pytest.fixture(scope="module")
def keyed() -> KeyedVectors:
    vectors = KeyedVectors(7)
    vectors.add_vectors(list(WORDS), np.random.default_rng(0).standard_normal((len(WORDS), 7)).astype(np.float32))
    return vectors


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_word2vec(keyed: KeyedVectors, tmp_path: Path, binary: bool, packed: str) -> None:
    path = tmp_path / f"vectors.any{packed}"
    keyed.save_word2vec_format(str(tmp_path / "plain"), binary=binary)
    data = (tmp_path / "plain").read_bytes()
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packed](data))
    found = read_vectors(path)
    assert (found.form, found.broken, found.repeated) == (f"word2vec {'binary' if binary else 'text'}", 0, 0)
    assert found.words == keyed.index_to_key
    np.testing.assert_allclose(found.table, keyed.vectors, rtol=0 if binary else 1e-6)


@pytest.mark.parametrize("mark", ["\t", "  "])
def test_word2vec_with_other_marks_between(keyed: KeyedVectors, tmp_path: Path, mark: str) -> None:
    """After the word alone, or between all numbers; not a binary file for that."""
    for between in (" ", mark):
        rows = [
            f"{word}{mark}{between.join(map(str, row))}\n" for word, row in zip(keyed.index_to_key, keyed.vectors, strict=True)
        ]
        (tmp_path / "x.vec").write_text(f"{len(rows)} 7\n{''.join(rows)}", encoding="utf-8")
        found = read_vectors(tmp_path / "x.vec")
        assert found.form == "word2vec text" and found.words == keyed.index_to_key


def test_glove_text_has_no_header_and_words_with_spaces(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(b"the 1 2.5 -3e-2\n. . . 4 5 6\nat name@domain.com 7 8 9\nthe 0 0 0\n\xe9t\xe9 1 1 1\n")
    found = read_vectors(path)
    assert found.words == ["the", ". . .", "at name@domain.com", "\ufffdt\ufffd"]
    assert (found.form, found.broken, found.repeated) == ("text", 1, 1)
    np.testing.assert_array_equal(found.table, np.float32([[1, 2.5, -0.03], [4, 5, 6], [7, 8, 9], [1, 1, 1]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"3 2\na 1 2\nb 3 4\n", "promises 3 vectors, and there are 2"),
        (b"a 1 2 3\nb 1 2\n", r"cut.txt:2: expected a word and 3 numbers"),
        (b"2 2\na \0\0\0\0\0\0\0\0b \0\0", "promises 2 vectors of 2 numbers, and it ends or goes astray after 1"),
        (b"1 2\na \0\0\0\0\0\0\0\0\nb \0\0\0\0\0\0\0\0", "promises 1 vectors of 2 numbers, and more follows"),
        (b"Hello, this is a letter.\n", "is no file of word vectors"),
        (b"", "is no file of word vectors"),
        (b"a 1 2\nb nan 2\n", r'cut.txt:2: the vector of "b" is not finite'),
        (b"a 1 2\nb 1e50 2\n", r'cut.txt:2: the vector of "b" is not finite'),
        (b"1 1\na \0\0\x80\x7f", 'the vector of "a" is not finite'),
        (b"\xba\x16O/\x0c\x00\x00\x00\x0a", "cut off"),
    ],
)
def test_what_is_cut_off_or_something_else_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "cut.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / "cut.txt")


def test_a_mark_at_the_beginning_and_gb18030_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeff猫 1 2\n狗 3 4\n".encode())
    assert read_vectors(path).words == ["猫", "狗"]
    path.write_bytes("cat 5 6\n猫 1 2\n机器学习 3 4\n深度 1 1\n".encode("gb18030"))
    found = read_vectors(path)
    assert (found.words, found.form, found.broken) == (["cat", "猫", "机器学习", "深度"], "text in GB18030", 0)
    path.write_bytes("étés 1 2\nmaïs 3 4\n".encode("latin-1"))  # whose bytes could be Chinese
    assert read_vectors(path).broken == 2


def test_fasttext_binary_gives_unknown_words_the_same_vectors(tmp_path: Path) -> None:
    texts = [["the", "naïve", "机器", "学习", "words", "of", "wörter"]] * 20
    model = FastText(texts, vector_size=12, min_count=1, bucket=300, min_n=2, max_n=4, epochs=2, seed=1, workers=1)
    save_facebook_model(model, str(tmp_path / "model.bin"))
    found = read_vectors(tmp_path / "model.bin")
    reference = load_facebook_model(str(tmp_path / "model.bin")).wv
    words = [*reference.index_to_key, "unknown", "机器学习", "a", "😀", "a b"]
    vectors, known = found.vectors(words)
    assert known.all() and found.words == reference.index_to_key
    np.testing.assert_allclose(vectors, np.stack([reference[word] for word in words]), atol=1e-6)


@pytest.mark.skipif(not REAL.is_dir(), reason="the collection of real files is not here")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # gensim's
class TestRealFiles:
    """Files that gensim is tested with."""

    @pytest.mark.parametrize(
        ("name", "binary", "header"),
        [
            ("EN.1-10.cbow1_wind5_hs0_neg10_size300_smpl1e-05.txt", False, True),
            ("crime-and-punishment.vec", False, True),
            ("lee_fasttext.vec", False, True),
            ("word2vec_pre_kv_c", False, True),
            ("high_precision.kv.txt", False, True),
            ("test_glove.txt", False, False),
            ("euclidean_vectors.bin", True, True),
            ("poincare_vectors.bin", True, True),
            ("high_precision.kv.bin", True, True),
            ("pang_lee_polarity_fasttext.vec", False, True),
        ],
    )
    def test_as_gensim_reads_them(self, name: str, binary: bool, header: bool) -> None:
        found = read_vectors(REAL / name)
        settings = {"binary": binary, "no_header": not header, "unicode_errors": "replace"}
        reference = KeyedVectors.load_word2vec_format(str(REAL / name), **settings)
        np.testing.assert_allclose(found.vectors(reference.index_to_key)[0], reference.vectors, rtol=1e-6)
        assert found.words == reference.index_to_key
        assert (found.broken > 0) == name.startswith("pang_lee")

    @pytest.mark.parametrize("name", ["lee_fasttext.bin", "lee_fasttext_new.bin"])
    def test_fasttext(self, name: str) -> None:
        found, reference = read_vectors(REAL / name), load_facebook_model(str(REAL / name)).wv
        # gensim gives </s> n-grams; fastText's dictionary.cc does not.
        words = [word for word in [*reference.index_to_key, "unheardof", "democratically"] if word != "</s>"]
        assert found.form == "fastText binary" and found.words == reference.index_to_key
        np.testing.assert_allclose(found.vectors(words)[0], np.stack([reference[word] for word in words]), atol=1e-6)

    def test_text_that_is_no_vectors(self) -> None:
        with pytest.raises(DataError, match="is no file of word vectors"):
            read_vectors(REAL / "lee.cor")
