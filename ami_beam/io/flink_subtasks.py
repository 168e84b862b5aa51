"""Which parallel subtask of a Flink step gets an element: what is needed to spread a few of them evenly.

Flink hashes the encoded key of an element to one of `max parallelism` key groups and gives each subtask a range of
groups. That is even for thousands of keys; of two keys on two subtasks both land on the same one every second time.
The functions follow Flink 1.19 (`KeyGroupRangeAssignment`, `MathUtils.murmurHash`) and Beam's Flink runner 2.70
(`FlinkKey`, which hashes with Guava's `murmur3_128`). Where another version hashes otherwise, chance decides.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def subtask_of(key: bytes, parallelism: int) -> int:
    """The subtask, from 0, that gets elements with this encoded key when Flink chooses the maximum parallelism."""
    groups = _max_parallelism(parallelism)
    return _murmur(_flink_key_hash(key)) % groups * parallelism // groups


def _max_parallelism(parallelism: int) -> int:
    """Half as much again, rounded up to a power of two, and within 128 to 32768."""
    wanted = parallelism + parallelism // 2
    return min(max(1 << max(wanted - 1, 0).bit_length(), 128), 1 << 15)


def _flink_key_hash(key: bytes) -> int:
    """The first 32 bits of MurmurHash3 x64 128 with seed 0 (Appleby's reference, as Guava has it)."""
    first = second = 0
    whole = len(key) // 16 * 16
    for at in range(0, whole, 16):
        first ^= _mixed(int.from_bytes(key[at : at + 8], "little"), _C1, 31, _C2)
        first = ((_rotated64(first, 27) + second) * 5 + 0x52DCE729) & _MASK64
        second ^= _mixed(int.from_bytes(key[at + 8 : at + 16], "little"), _C2, 33, _C1)
        second = ((_rotated64(second, 31) + first) * 5 + 0x38495AB5) & _MASK64
    rest = key[whole:]
    second ^= _mixed(int.from_bytes(rest[8:], "little"), _C2, 33, _C1) ^ len(key)
    first ^= _mixed(int.from_bytes(rest[:8], "little"), _C1, 31, _C2) ^ len(key)
    first = first + second & _MASK64
    second = second + first & _MASK64
    return _finished(first) + _finished(second) & _MASK


def _mixed(block: int, before: int, by: int, after: int) -> int:
    return _rotated64(block * before & _MASK64, by) * after & _MASK64


def _finished(half: int) -> int:
    half = (half ^ half >> 33) * 0xFF51AFD7ED558CCD & _MASK64
    half = (half ^ half >> 33) * 0xC4CEB9FE1A85EC53 & _MASK64
    return half ^ half >> 33


def _rotated64(value: int, by: int) -> int:
    return (value << by | value >> 64 - by) & _MASK64


def _murmur(code: int) -> int:
    code = code * 0xCC9E2D51 & _MASK
    code = _rotated(code, 15) * 0x1B873593 & _MASK
    code = (_rotated(code, 13) * 5 + 0xE6546B64) & _MASK
    code ^= 4
    code = (code ^ code >> 16) * 0x85EBCA6B & _MASK
    code = (code ^ code >> 13) * 0xC2B2AE35 & _MASK
    code ^= code >> 16
    # Java's absolute value of a 32-bit integer; the one that has none becomes 0.
    return code if code < 1 << 31 else ((1 << 32) - code) % (1 << 31)


def _rotated(code: int, by: int) -> int:
    return (code << by | code >> 32 - by) & _MASK
