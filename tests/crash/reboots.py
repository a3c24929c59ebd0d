"""Owns power cuts of a whole machine: a second kernel is killed while it works with a store, and booted again.

    python -m tests.crash.harness reboots FILE_SYSTEM [--limit CUTS]

The machine is Debian's `user-mode-linux`. All that its memory had is lost: caches of files and of the
disk's metadata, the log's newest part, mounts, processes. Its disk is a file that has what was written
to it: that driver ends a flush inside of the guest, so that a disk's own cache cannot be lost here;
that is for `blocks`. What was acknowledged has left the machine by its console before the power goes.
One cut of four meets an open after the cut before. What a boot does is in `tests.second_kernel.cutwork`.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import attrs

from tests.crash import bench as benches
from tests.crash.disk import Disk
from tests.crash.invariants import Violation, require
from tests.second_kernel.cutwork import SAID, Told

ROOT: Final = Path(__file__).resolve().parent.parent.parent
INIT: Final = ROOT / "tests" / "second_kernel" / "cuts.sh"
PATIENCE: Final = 240.0
"""Seconds that a boot may take to say the next thing."""
MOST: Final = 40
"""Acknowledgements that a cut waits for, at most."""


@attrs.define
class Machine:
    """A second kernel with one disk, that this process feeds and kills."""

    place: Path
    disk: Disk
    said: list[dict[str, Any]] = attrs.Factory(list)
    """What this boot said."""
    noise: list[str] = attrs.Factory(list)
    _guest: subprocess.Popen[bytes] | None = None
    _rest: bytes = b""

    def boot(self, told: Told) -> None:
        """Start it; what it is told lies on its second disk."""
        self.said.clear()
        self.noise.clear()
        self._rest = b""
        words = json.dumps(attrs.asdict(told)).encode()
        (self.place / "told").write_bytes(words + bytes(-len(words) % 4096))
        command = [
            # Its processes end with the first of them, all at once.
            *("unshare", "--pid", "--fork", "--kill-child=KILL"),
            *("linux.uml", "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
            f"ubda={self.disk.image}",
            f"ubdbr={self.place / 'told'}",
            f"uml_dir={self.place}/",
            *("con=null", "con0=null,fd:1", "con1=null"),
            f"init={INIT}",
            f"LAYERSTORE_ROOT={ROOT}",
            f"LAYERSTORE_PYTHON={sys.executable}",
            f"LAYERSTORE_DISK={self.disk.kind}",
        ]
        self._guest = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(self.place)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def listen(self, until: float) -> bool:
        """Take in what it says until a moment; False once it is off."""
        assert self._guest is not None and self._guest.stdout is not None
        ready, _, _ = select.select(
            [self._guest.stdout], [], [], max(0.0, until - time.monotonic())
        )
        if not ready:
            return True
        chunk = os.read(self._guest.stdout.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text.startswith(SAID):
                self.said.append(json.loads(text.removeprefix(SAID)))
            else:
                self.noise.append(text)
        return bool(chunk)

    def wait(self, count: int) -> bool:
        """Until it said so many things, or is off; False if it is."""
        while len(self.said) < count:
            before = len(self.said)
            deadline = time.monotonic() + PATIENCE
            while len(self.said) == before:
                require(time.monotonic() < deadline, f"it says nothing more:\n{self.words()}")
                if not self.listen(deadline):
                    return False
        return True

    def words(self) -> str:
        return "\n".join([*self.noise[-25:], *map(str, self.said[-3:])])

    def power_off(self) -> None:
        """Now. What it had said by then arrives here."""
        assert self._guest is not None and self._guest.stdout is not None
        self._guest.kill()
        while self.listen(time.monotonic() + PATIENCE):
            pass
        self._guest.stdout.close()
        self._guest.wait()
        self._guest = None

    def abandon(self) -> None:
        if self._guest is not None:
            self._guest.kill()
            self._guest.wait()
            self._guest = None


def reboots(options: Any, result: Any) -> None:
    """--limit cuts of a machine whose disk has this file system, and a boot after each."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-reboot-", dir=benches.base()))
    disk = Disk(place / "disk", options.scenario)
    machine = Machine(place, disk)
    try:
        disk.format()
        _lives(machine, random.Random(f"{options.seed} {options.scenario}"), options.limit, result)
    except Violation as violation:
        if result.mutant:
            result.caught = f"{violation}"
        else:
            result.fail(f"{violation}", f"--limit {options.limit}")
    finally:
        machine.abandon()
        shutil.rmtree(place)


def _lives(machine: Machine, chance: random.Random, limit: int, result: Any) -> None:
    past: dict[str, Any] | None = None
    links: dict[str, str] = {}
    cut = "the machine is new"
    result.calls = {"acknowledged": 0, "cut while it opened": 0}
    life = 0
    for number in range(limit + 1):
        recover = past is not None and chance.random() < 0.25 and number < limit
        seed = chance.randrange(1 << 32)
        told = Told(life, seed, past, recover, number < limit, links, result.mutant)
        machine.boot(told)
        machine.wait(1)
        if recover:
            until = time.monotonic() + chance.random()
            while time.monotonic() < until:
                machine.listen(until)
            machine.power_off()
            result.calls["cut while it opened"] += 1
        else:
            machine.wait(2 if number == limit else 2 + chance.randint(1, MOST))
            until = time.monotonic() + (chance.random() * 0.3 if number < limit else 0.0)
            while time.monotonic() < until:
                machine.listen(until)
            machine.power_off()
            past, links = _heard(machine, told, cut)
            result.again += 1
            result.calls["acknowledged"] += len(past["said"])
            life += 1
        if number < limit:
            cut = f"cut {number + 1}"
            result.points += 1
            result.kills += 1


def _heard(machine: Machine, told: Told, cut: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a life said, for the next; Violation where it said that something is wrong."""
    said = machine.said
    failures = [line["failure"] for line in said if "failure" in line]
    require(not failures, f"after {cut}: {''.join(failures)}")
    states = [line["state"] for line in said if "state" in line]
    require(bool(states), f"after {cut}: it did not come back:\n{machine.words()}")
    values = [line["value"] for line in said if "value" in line]
    links = {name: link for name, link in told.links.items() if name in states[0]["layers"]}
    links |= {value["layer"]: value["link"] for value in values if "link" in value}
    return {"life": told.life, "seed": told.seed, "state": states[0], "said": values}, links
