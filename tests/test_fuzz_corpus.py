"""What `make fuzz` has found worth keeping, and hypothesis in its place: the same properties without the fuzzer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.fuzz.choices import Choices
from tests.fuzz.corpus import FILES, keep, load
from tests.fuzz.properties import CHECKS

CORPUS = {target: load(FILES / f"{target}.hex") for target in CHECKS}


@pytest.mark.parametrize("target", CHECKS)
def test_the_corpus(target: str) -> None:
    assert CORPUS[target]
    for data in CORPUS[target]:
        CHECKS[target](data)


@pytest.mark.parametrize("target", CHECKS)
def test_the_corpus_holds_nothing_twice(target: str) -> None:
    assert len(set(CORPUS[target])) == len(CORPUS[target])
    assert sum(map(len, CORPUS[target])) < 100_000


@pytest.mark.parametrize("target", CHECKS)
@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_what_holds_for_every_input(target: str, data: bytes) -> None:
    CHECKS[target](data)


@pytest.mark.parametrize("target", CHECKS)
@hypothesis_settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 60), choice=st.binary(min_size=1, max_size=4), number=st.integers(0, 1_000))
def test_what_holds_near_the_corpus(target: str, position: int, choice: bytes, number: int) -> None:
    data = CORPUS[target][number % len(CORPUS[target])]
    CHECKS[target](data[:position] + choice + data[position + len(choice) :])


def test_choices_are_valid_for_any_bytes() -> None:
    choices = Choices(b"\xff\x01\xff\xff")
    assert [choices.below(7), choices.of("abc"), choices.below(1_000), choices.chance(2), choices.raw(3)] == [
        *(255 % 7, "b", 65_535 % 1_000, False, b"")
    ]


def test_what_is_kept_reaches_what_all_reached() -> None:
    assert keep("events", [b"", b"\x00", b"\x00\x00"]) == [b""]
