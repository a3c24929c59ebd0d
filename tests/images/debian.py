"""The archive of a root file system that is a Debian: made by mmdebstrap, or of this machine's own packages."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

_WANTED = {"base-files", "coreutils", "dash", "dpkg", "libc-bin"}
_LEFT_OUT = ("/usr/share/doc/", "/usr/share/locale/", "/usr/share/man/")
_MERGED = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")


def by_mmdebstrap(path: Path, *, patience: float) -> bool:
    """Have a small Debian made from the archives of Debian, of the release of this machine."""
    facts = platform.freedesktop_os_release()
    if shutil.which("mmdebstrap") is None or facts["ID"] != "debian":
        return False
    words = ["mmdebstrap", "--quiet", "--variant=minbase", facts["VERSION_CODENAME"], str(path)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return False
    return 0 == done.returncode


def of_this_machine(path: Path) -> None:
    """Pack what runs a shell and dpkg, and whatever that depends on, as it is installed here."""
    names = os.linesep.join(sorted(_files(_closure())))
    words = ["tar", "--no-recursion", "--numeric-owner", "--format=pax"]
    words += ["-C", "/", "-cf", str(path), "-T", "-"]
    subprocess.run(words, input=names.encode(), check=True, capture_output=True)


def _closure() -> set[str]:
    form = "${Package}\t${Pre-Depends},${Depends}\n"
    listed = subprocess.run(
        ["dpkg-query", "-Wf", form], check=True, capture_output=True, text=True
    ).stdout
    needs = dict(line.split("\t") for line in listed.splitlines())
    found: set[str] = set()
    left = set(_WANTED)
    while left:
        name = left.pop()
        found.add(name)
        left |= {x for x in re.findall(r"[a-z0-9][a-z0-9+.-]+", needs[name]) if x in needs} - found
    return found


def _files(packages: set[str]) -> set[str]:
    """Their files and every directory above them, by paths that no link is part of."""
    listed = subprocess.run(
        ["dpkg-query", "-L", *sorted(packages)], check=True, capture_output=True, text=True
    ).stdout
    found = {name[1:] for name in _MERGED if os.path.islink(name)}
    for line in listed.splitlines():
        if not line.startswith("/") or line.startswith(_LEFT_OUT) or not os.path.lexists(line):
            continue
        above, name = os.path.split(line)
        path = os.path.join(os.path.realpath(above), name)
        while path != "/":
            found.add(path[1:])
            path = os.path.dirname(path)
    return found
