"""An ordinary user, who really is one: another uid, no capability, no group of root's.

Nothing of the machine changes for it: what it needs stands in a mount namespace of its own, where
/etc/passwd, /etc/subuid and /etc/subgid have other contents, and where the interpreter and this
checkout can be reached also if they lie in root's home.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.cli.running import PROGRAM, ROOT, Done, environment

UID = 54321
FIRST_SUBORDINATE = 7_000_000
SUBORDINATES = 65536


def _blocked(path: Path) -> Path | None:
    """The first directory above a path that others may not enter."""
    for above in reversed(path.parents):
        if above.is_dir() and not above.stat().st_mode & 0o001:
            return above
    return None


def _opened(place: Path) -> list[str]:
    """Shell lines that let everybody reach what Python and the tests are made of, and nothing else."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), ROOT}
    needed |= {path.resolve() for path in needed}
    hidden: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        above = _blocked(path)
        if above is not None:
            hidden.setdefault(above, []).append(path)
    lines = []
    for above, paths in hidden.items():
        for number, path in enumerate(paths):
            lines.append(f"mkdir {place}/{number} && mount --rbind {_q(path)} {place}/{number}")
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {_q(above)}")
        for number, path in enumerate(paths):
            lines.append(f"mkdir -p {_q(path)} && mount --move {place}/{number} {_q(path)}")
            lines.append(f"rmdir {place}/{number}")
    return lines


def _q(path: Path) -> str:
    return shlex.quote(os.fspath(path))


@attrs.frozen
class Outsider:
    """The user, with a home directory; `subordinate`: with ids in /etc/subuid and /etc/subgid."""

    home: Path
    prelude: Path

    @classmethod
    def at(cls, bare: Path, *, subordinate: bool) -> Outsider:
        """Make what it needs in an empty directory, to which it gets access."""
        bare.chmod(0o755)
        etc, home = bare / "etc", bare / "user"
        for path in (etc, bare / "etc-work", bare / "aside", home):
            path.mkdir()
        (home / "tmp").mkdir()
        for path in (home, home / "tmp"):
            os.chown(path, UID, UID)
        passwd = Path("/etc/passwd").read_text()
        (etc / "passwd").write_text(f"{passwd}outsider:x:{UID}:{UID}::{home}:/bin/sh\n")
        ids = f"outsider:{FIRST_SUBORDINATE}:{SUBORDINATES}\n" if subordinate else ""
        for name in ("subuid", "subgid"):
            (etc / name).write_text(ids)
        lines = ["set -e", *_opened(bare / "aside")]
        options = f"lowerdir=/etc,upperdir={etc},workdir={bare / 'etc-work'}"
        lines.append(f"mount -t overlay -o {shlex.quote(options)} overlay /etc")
        lines.append(
            f"exec setpriv --reuid {UID} --regid {UID} --clear-groups --bounding-set=+all "
            f'env -C {_q(home)} "$@"'
        )
        prelude = bare / "as-outsider"
        prelude.write_text("\n".join(lines) + "\n")
        return cls(home, prelude)

    def command(self, *words: str) -> list[str]:
        """The command line that runs these words as this user."""
        own = ("unshare", "--mount", "--propagation", "private", "sh", os.fspath(self.prelude))
        return [*own, *words]

    def environment(self, **more: str) -> dict[str, str]:
        own = {"HOME": str(self.home), "TMPDIR": str(self.home / "tmp"), "SHELL": "/bin/sh"}
        own |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "LAYERSTORE_TEST_DIR": str(self.home / "tmp")}
        return environment(**own) | {"XDG_DATA_HOME": ""} | more

    def run(self, *words: str, **variables: str) -> Done:
        """Run a program to its end."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def layerstore(self, *words: str, **variables: str) -> Done:
        """Run the program as this user."""
        return self.run(*PROGRAM, *words, **variables)

    def inside(self, *words: str, **variables: str) -> Done:
        """Run a command behind `layerstore unshare`."""
        return self.layerstore("-q", "unshare", *words, **variables)

    def program(self, *words: str, code: int = 0) -> Done:
        """Run the program behind `layerstore unshare`, expecting an exit code."""
        done = self.inside(*PROGRAM, *words)
        assert code == done.code, f"{words}: exit {done.code}\n{done.out}{done.err}"
        return done

    def script(self, text: str) -> Done:
        """Run lines of a shell behind `layerstore unshare`; `layerstore` is the program."""
        program = " ".join(map(shlex.quote, PROGRAM))
        whole = f'layerstore() {{ {program} "$@"; }}\nset -eu\n{text}'
        return self.inside("sh", "-c", whole)


def lines(done: Done) -> Sequence[str]:
    """What it printed, of a run that succeeded."""
    assert 0 == done.code, f"exit {done.code}\n{done.out}{done.err}"
    return done.out.splitlines()
