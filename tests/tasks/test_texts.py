"""Windows over long texts."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from encoderkit.tasks.texts import windows


@given(st.integers(0, 300), st.integers(2, 64), st.data())
def test_windows_cover_a_text_and_overlap(length: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    found = windows(length, room, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - start <= room for start, end in found)
    assert all(after[0] == before[1] - overlap for before, after in pairwise(found))
    assert len({end for _, end in found}) == len(found), "no window lies inside another"
