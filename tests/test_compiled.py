"""Compiled code is there or it is not; a disk on which it cannot be kept is no reason to end."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from encoderkit.compiled import compiled

build = compiled.__wrapped__


def twice(value: int) -> int:
    return 2 * value


def numba(monkeypatch: pytest.MonkeyPatch, njit: Any) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(njit=njit))


def test_a_function_is_compiled() -> None:
    pytest.importorskip("numba")
    made = build(twice)
    assert made is not None and made(4) == 8


def test_extensions_of_other_packages_are_left_for_later() -> None:
    """They take longer than what is made here, and whoever needs them finds them as ever."""
    pytest.importorskip("numba")
    known, loaded = importlib.import_module("numba.core.entrypoints"), []

    def look(value: int) -> int:
        return value + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "_already_initialized", False)
        patch.setattr(known.importlib_metadata, "entry_points", lambda: loaded.append(1) or {})
        made = build(look)
        assert made is not None and made(4) == 5 and not loaded
        known.init_all()
        assert loaded


def test_without_numba_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert build(twice) is None


def test_what_cannot_be_kept_is_made_again_without(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def njit(cache: bool = False, **_: Any) -> Any:
        asked.append(cache)

        def call(value: int) -> int:
            if cache:
                raise OSError("No space left on device")
            return twice(value)

        return lambda function: call

    numba(monkeypatch, njit)
    made = build(twice)
    assert made is not None and made(4) == made(4) == 8 and asked == [True, False]


def test_another_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(value: int) -> int:
        raise TypeError("no such thing")

    numba(monkeypatch, lambda **_: lambda function: call)
    made = build(twice)
    assert made is not None
    with pytest.raises(TypeError):
        made(4)
