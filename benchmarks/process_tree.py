"""What a process and everything it started have cost: CPU seconds and memory, from /proc (Linux only)."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent, clock ticks of it and of its children that have ended), or None when it is gone."""
    try:
        # The name in parentheses may hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(int(each) for each in fields[11:15])


def _tree(root: int) -> dict[int, int]:
    """Clock ticks by pid of `root` and its living descendants."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) is not None:
            found[int(entry)] = stat
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in found.items():
        children.setdefault(parent, []).append(pid)
    tree: dict[int, int] = {}
    waiting = [root] if root in found else []
    while waiting:
        pid = waiting.pop()
        tree[pid] = found[pid][1]
        waiting += children.get(pid, [])
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far. A child that has ended counts through the parent that awaited it."""
    return sum(_tree(root).values()) / _TICKS


def cpu_by_program(root: int) -> dict[str, float]:
    """As `cpu_seconds`, by the name of the program: "java", "python"."""
    totals: dict[str, float] = {}
    for pid, ticks in _tree(root).items():
        try:
            program = Path(os.readlink(f"/proc/{pid}/exe")).name.rstrip("0123456789.")
        except OSError:
            continue
        totals[program] = totals.get(program, 0.0) + ticks / _TICKS
    return totals


def rss_bytes(root: int) -> int:
    """Resident memory, summed over the tree; pages that processes share count once for each."""
    total = 0
    for pid in _tree(root):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except OSError:
            continue
    return total


def peak_bytes_by_process(root: int) -> dict[str, int]:
    """The most memory each living process of the tree ever had, by the module or class it runs and its id."""
    return _memory_by_process(root, "VmHWM")


def rss_by_process(root: int) -> dict[str, int]:
    """The memory each living process of the tree has now, by the same names."""
    return _memory_by_process(root, "VmRSS")


def command_lines(root: int) -> list[list[str]]:
    """The words of the command of each living process of the tree."""
    found = []
    for pid in sorted(_tree(root)):
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))
    return found


def reset_peaks(root: int) -> None:
    """Let the peaks of every process of the tree count from now on."""
    for pid in _tree(root):
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory_by_process(root: int, field: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pid in sorted(_tree(root)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        size = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
        name = next((word for word in words if word.startswith(("ami_beam.", "benchmarks.", "org.apache."))), words[0])
        found[f"{name.rpartition('.')[2]} {pid}"] = size
    return found


class PeakMemory:
    """`with PeakMemory(pid) as memory:` samples the tree's memory; `memory.peak` is the greatest sum in bytes."""

    def __init__(self, root: int, seconds: float = 0.5) -> None:
        self._root = root
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, rss_bytes(self._root))
            if self._stop.wait(self._seconds):
                return
