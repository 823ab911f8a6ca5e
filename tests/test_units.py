"""Numbers as people write them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from encoderkit.units import Count, Every, Interval, Overlap, Seconds, Share, Span, interval, span_updates


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        (Seconds, "90s", 90.0),
        (Seconds, "30m", 1800.0),
        (Seconds, "1.5 h", 5400.0),
        (Seconds, "2d", 172800.0),
        (Seconds, 45, 45.0),
        (Count, "10k", 10_000),
        (Count, "50M", 50_000_000),
        (Count, "2B", 2 * 10**9),
        (Count, 2000, 2000),
        (Count, "1.5k", 1500),
        (Count, "1_000", 1000),
        (Count, "1e3", 1000),
        (Share, "5%", 0.05),
        (Share, 0.05, 0.05),
        (Share, "100%", 1.0),
        (Share, 0, 0.0),
        (Share, "0.5%", 0.005),
        (Share, "1e-3", 0.001),
        (Span, "5%", "5%"),
        (Span, 300, 300),
        (Span, "2k", 2000),
        (Overlap, 32, 32),
        (Overlap, "32", 32),
        (Overlap, "25%", "25%"),
        (Overlap, 0.25, "25%"),
        (Every, "5m", "5m"),
        (Every, "1 epoch", "1 epoch"),
    ],
)
def test_read(unit: Any, text: Any, value: Any) -> None:
    found = TypeAdapter(unit).validate_python(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (Seconds, "soon"),
        (Seconds, "-5s"),
        (Seconds, "0s"),
        (Seconds, "1..2m"),
        (Seconds, "5w"),
        (Seconds, ""),
        (Count, "1.5"),
        (Count, "many"),
        (Count, "1e999k"),
        (Count, "-3"),
        (Count, "3K"),
        (Share, "120%"),
        (Share, 1.5),
        (Share, -0.1),
        (Share, "half"),
        (Span, "200%"),
        (Span, 1.5),
        (Every, "now"),
        (Every, "0 updates"),
        (Overlap, "100%"),
        (Overlap, -1),
        (Overlap, True),
        (Every, "5"),
        (Seconds, True),
        (Count, None),
        (Seconds, "1.2.3s"),
        (Share, "."),
        (Every, "1..5m"),
    ],
)
def test_refused(unit: Any, text: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(unit).validate_python(text)


def test_interval() -> None:
    assert interval("20 updates") == Interval(20, "updates")
    assert interval("1 epoch") == Interval(1, "epochs") and interval("0.5 epochs") == Interval(0.5, "epochs")
    assert interval("5m") == Interval(300, "seconds")


@given(st.integers(0, 100), st.integers(1, 10**6))
def test_span_updates(percent: int, total: int) -> None:
    assert abs(span_updates(f"{percent}%", total) - percent * total / 100) <= 0.5
    assert span_updates(percent, total) == min(percent, total)
