"""Random numbers that depend on what they are for and on nothing else: not on order, batch size or process.

`draw(seed, stream, a, b)` is a pure function of its arguments (splitmix64's finaliser as a counter-based generator).
A read therefore has the same value whenever it is sent, resent or sent late, and no value has to be remembered.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_A = 0x9E3779B97F4A7C15
_B = 0xD1B54A32D192ED03
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def draw(seed: int, stream: int, a: np.ndarray, b: np.ndarray | int = 0) -> np.ndarray:
    """Uniform floats in [0, 1), one for each pair of counters `a` and `b` (integers; `b` may be one number)."""
    key = _mix((_mix(seed & _MASK) + (stream + 1) * _A) & _MASK)
    x = a.astype(np.uint64)
    x *= np.uint64(_A)
    if isinstance(b, int):
        x += np.uint64((key + (b & _MASK) * _B) & _MASK)
    else:
        x += b.astype(np.uint64) * np.uint64(_B)
        x += np.uint64(key)
    x ^= x >> np.uint64(30)
    x *= np.uint64(_M1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_M2)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(seed: int, stream: int, step: int) -> np.random.Generator:
    """A generator of its own for one step of one stream."""
    return np.random.Generator(np.random.PCG64([seed & _MASK, stream, step]))
