"""Becomes the command it is given, after asking the kernel to kill it when the thread that started it ends.

Run as a script: `python -I -S _guard.py <pid of the parent> <command…>`. Standard library only, and little of it:
every start passes through here. It is a step between the parent and the command because the child itself has to make
the request, and Python code between fork and exec is not safe in a parent with threads, such as gRPC's.
"""

import os
import signal
import sys


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        if ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != parent:  # the parent died before the request was made
            sys.exit("the parent process has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
