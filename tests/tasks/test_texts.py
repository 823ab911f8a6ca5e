"""Windows over long texts; texts in rows."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoderkit.tasks.texts import WIDTH, Tokens, inputs_of, windows


@given(st.integers(0, 300), st.integers(2, 64), st.data())
def test_windows_cover_a_text_and_overlap(length: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    found = windows(length, room, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - start <= room for start, end in found)
    assert all(after[0] == before[1] - overlap for before, after in pairwise(found))
    assert len({end for _, end in found}) == len(found), "no window lies inside another"


@given(st.integers(1, 100), st.integers(0, 3), st.integers(1, 80), st.integers(0, 99))
def test_texts_of_about_one_length_are_packed_next_to_each_other(longest: int, spread: int, count: int, seed: int) -> None:
    """As `embed` and `predict` batch them: no place is empty but what the longest has more, and the last row's."""
    sizes = np.maximum(1, longest - np.random.default_rng(seed).integers(0, spread + 1, count))
    sizes[0] = longest
    texts = [Tokens(np.arange(size) + 5, None, 0) for size in sizes]
    inputs = inputs_of(texts, 0, packed=True)
    rows, width = inputs.ids.shape
    assert longest <= width <= max(longest, WIDTH)
    assert rows * width - sizes.sum() <= spread * count + width
    assert inputs.texts is not None
    for text, places in zip(texts, inputs.texts, strict=True):
        here = places[places >= 0]
        assert np.array_equal(inputs.ids.reshape(-1)[here], text.ids), "each text stands where `texts` says"
    assert int((inputs.documents > 0).sum()) == sizes.sum(), "and nothing else does"
