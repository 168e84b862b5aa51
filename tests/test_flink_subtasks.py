"""Which Flink subtask an element goes to: the hash functions against published values."""

from __future__ import annotations

from collections import Counter

import pytest
from apache_beam.coders.coders import BytesCoder, LengthPrefixCoder

from ami_beam.io.flink_subtasks import _flink_key_hash, subtask_of


@pytest.mark.parametrize(
    ("key", "low_32_bits"),
    [
        (b"", 0),
        # MurmurHash3 x64 128 with seed 0 of its well-known test texts.
        (b"hello", 0x41BD9B02),
        (b"The quick brown fox jumps over the lazy dog", 0xBC071B6C),
    ],
)
def test_the_key_is_hashed_as_beams_flink_runner_does(key: bytes, low_32_bits: int) -> None:
    assert _flink_key_hash(key) == low_32_bits


def test_subtasks_are_hit_evenly_and_none_is_beyond_the_last() -> None:
    hits = Counter(subtask_of(str(number).encode(), 3) for number in range(3_000))
    assert sorted(hits) == [0, 1, 2]
    assert min(hits.values()) > 800


@pytest.mark.parametrize(("length", "prefix"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_the_prefix_is_a_varint(length: int, prefix: bytes) -> None:
    assert LengthPrefixCoder(BytesCoder()).encode(b"x" * length) == prefix + b"x" * length
