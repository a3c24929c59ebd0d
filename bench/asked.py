"""Owns asking the kernel about mounts among many: a process of its own, in a mount namespace of its own.

    python bench/asked.py DIRECTORY MOUNTS root|upper|clones

It mounts so many overlays, says "ready", and answers each number on stdin with the seconds that it took
to ask so often: about a layer that is mounted and one that is not, by turns. `clones` asks nothing: the kernel
makes the private copies of a mount that an overlay of three directories takes, and nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

from layerstore.fs import mountinfo, syscalls, upper


def main() -> None:
    """Answer until stdin ends."""
    place = tempfile.mkdtemp(dir=sys.argv[1])
    for name in ("a", "b", "diff", "scratch", "plain"):
        os.mkdir(f"{place}/{name}")
    for number in range(int(sys.argv[2])):
        point = f"{place}/m{number}"
        os.mkdir(point)
        below = f"lowerdir={place}/a:{place}/b"
        syscalls.mount("overlay", point, "overlay", syscalls.MS_RDONLY, below)
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        count = int(line)
        began = time.perf_counter()
        if sys.argv[3] == "root":
            for _ in range(count):
                assert mountinfo.is_mount_root(f"{place}/m7")
                assert not mountinfo.is_mount_root(f"{place}/plain")
        elif sys.argv[3] == "clones":
            for _ in range(3 * count):
                os.close(syscalls.open_tree(-100, f"{place}/diff", syscalls.OPEN_TREE_CLONE))
        else:
            for _ in range(count):
                assert upper.upper_is_free(f"{place}/diff", f"{place}/scratch")
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
