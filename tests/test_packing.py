"""What waits in state comes back, also what an earlier release has put there."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from ami_beam.packing import compressed, decompressed


@given(st.binary(max_size=2_000), st.integers(0, 9))
def test_what_was_compressed_comes_back(data: bytes, level: int) -> None:
    assert decompressed(compressed(data)) == data
    # Up to November 2026 state was compressed by zlib.
    assert decompressed(zlib.compress(data, level)) == data
