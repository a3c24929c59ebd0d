"""dockerd, its driver, or the whole machine ends at a random moment of builds and runs, again and again.

Twenty rounds here; `make docker-soak` runs LAYERSTORE_DOCKER_ROUNDS of them, 500 by default.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.fs import syscalls
from layerstore.reader import Reader
from tests.docker.daemon import Both, busybox, docker_on_layerstore, missing
from tests.docker.serving import wait_for
from tests.docker.test_dockerd import remove_everything, require_empty
from tests.docker.test_kills import forget

pytestmark = [
    pytest.mark.root,
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}"),
]

ROUNDS = int(os.environ.get("LAYERSTORE_DOCKER_ROUNDS", "20"))
SEED = int(os.environ.get("LAYERSTORE_DOCKER_SEED", "1"))
ENDS = ("server", "dockerd", "both", "reboot")
KEPT = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@attrs.define
class Machine:
    """A dockerd on a layerstore, what it was asked for, and what can end."""

    both: Both
    context: Path
    chance: random.Random
    failures: int = 0
    boots: int = 0
    strays: int = 0
    left: set[str] = attrs.Factory(set)
    """Held, and of no container that runs."""
    mounted_at_death: set[str] = attrs.Factory(set)
    """When a dockerd was killed, since the last reboot."""

    # --- what dockerd is asked for ------------------------------------------------------------

    def work(self, number: int) -> None:
        """A build, a container that ends, one that runs on, a commit; any of them may fail."""
        (self.context / "given").write_text(f"given {number}\n")
        (self.context / "Dockerfile").write_text(
            f"FROM bb\nCOPY given /data/given\nRUN echo {number} > /data/mine && rm /data/deleted\n"
        )
        script = f"echo {number} > /data/mine; cat /data/mine"
        none, sh = ("--network", "none"), ("/bin/sh", "-c")
        named = ("run", *none, "--name", f"ends{number}", "bb", *sh, script)
        lasting = ("bb", *sh, f"{script}; sleep 1000")
        commands = [
            ("build", *none, "-t", f"built:{number}", str(self.context)),
            named,
            ("run", "-d", "--stop-timeout", "1", *none, "--name", f"runs{number}", *lasting),
        ]
        self.chance.shuffle(commands)
        for words in commands:
            # Only of a container that ended it is known what is in it.
            if self._try(*words) and words is named:
                self._try("commit", f"ends{number}", f"committed:{number}")

    def _try(self, *words: str) -> bool:
        done = self.both.docker.run(*words, code=None)
        self.failures += done.returncode != 0
        return done.returncode == 0

    # --- what ends ----------------------------------------------------------------------------

    def end(self, what: str) -> None:
        """It ends at once, and is started again."""
        docker, served = self.both.docker, self.both.served
        docker.more = ("--live-restore",) if self.chance.random() < 0.5 else ()
        if what in ("server", "both", "reboot"):
            served.end(signal.SIGKILL)
        if what in ("dockerd", "both", "reboot"):
            docker.end(signal.SIGKILL)
            self.mounted_at_death |= {Path(p).parent.name for p in mounts_below(self.both.home)}
        if what == "reboot":
            self._reboot()
            self.mounted_at_death.clear()
        if what in ("server", "both", "reboot"):
            served.start()
        if what in ("dockerd", "both", "reboot"):
            docker.start()

    def _reboot(self) -> None:
        """No process, no mount, nothing in /run, and another boot id."""
        docker = self.both.docker
        docker.end_containers()
        while mounts := mounts_below(docker.place):
            for path in reversed(mounts):
                subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(docker.place / "exec", ignore_errors=True)
        (docker.place / "pid").unlink(missing_ok=True)
        for name in ("home", "pending"):
            Path(f"{self.both.served.socket}.{name}").unlink(missing_ok=True)
        self.boots += 1
        boot = docker.place / f"boot{self.boots}"
        boot.write_text(f"{uuid.uuid4()}\n")
        syscalls.mount(os.fspath(boot), os.fspath(BOOT_ID), "", syscalls.MS_BIND, "")

    # --- what has to be so afterwards ---------------------------------------------------------

    def check(self, number: int, *, may_forget: bool) -> None:
        """Everything that dockerd says it has works, what runs is held once, and the audit finds nothing.

        More is held only where a dockerd died over it: what is mounted then counts once for the next
        one, by Docker's rule, also if that has no use for it, and twice if it then starts that container.
        `may_forget`: or dockerd dropped it, since a repetition was refused.
        """
        run = self.both.docker
        for line in run.lines("ps", "-a", "--format", "{{.Names}} {{.State}}"):
            if line:
                self._check_container(*line.split())
        for image in run.lines("images", "--format", "{{.Repository}}:{{.Tag}}"):
            name, _, tag = image.partition(":")
            if name in ("built", "committed") and int(tag) >= number - 1:
                command = ("/bin/cat", "/data/mine")
                assert run("run", "--rm", "--network", "none", image, *command) == tag
        home = self.both.home
        with Store.open(home, read_only=True) as reader:
            mounts = sorted(f"{home}/{mount.layer}/merged" for mount in reader.mounts())
            assert mounts == sorted(mounts_below(home))
            held = {str(h.layer): (h.holder, h.count) for h in reader.holders()}
            assert {holder for holder, _ in held.values()} <= {"docker"}, self.story(reader)
            twice = {layer for layer, (_, count) in held.items() if count != 1}
            assert twice <= self.mounted_at_death, self.story(reader)
            assert {count for _, count in held.values()} <= {1, 2}, self.story(reader)
            assert len(held) == len(mounts)
            used = self.layers_of(run.lines("ps", "-q", "--no-trunc"))
            assert used <= set(held), self.story(reader)
            more = set(held) - used
            new = more - self.left - self.mounted_at_death
            self.left = more
            assert not new or may_forget, self.story(reader)
            assert () == reader.operations()
        assert () == audit(home).findings

    def refused(self) -> int:
        """Repetitions of which the server could not know what they were, so far."""
        return self.both.served.log.read_text().count("came without a body")

    def layers_of(self, containers: list[str]) -> set[str]:
        """Where dockerd's own records say that their files are."""
        place = self.both.docker.data / "image" / self.both.docker.driver / "layerdb" / "mounts"
        return {(place / name / "mount-id").read_text() for name in containers if name}

    def story(self, reader: Reader) -> str:
        """What the journal, dockerd and the server have to say of the layers that are held."""
        run = self.both.docker
        lines = [run("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Status}}")]
        for hold in reader.holders():
            lines += [
                f"{hold}",
                *(f"  {e.seq} {e.at} {e.owner[:6]} {e.event}" for e in reader.history(hold.layer)),
            ]
        for log in (self.both.served.log, run.place / "log"):
            said = [x for x in log.read_text().splitlines() if "HTTP 2" not in x]
            lines += [f"--- {log}", *(x[:260] for x in said[-120:])]
        return "\n".join(lines)

    def _check_container(self, name: str, state: str) -> None:
        run = self.both.docker
        kind, text = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
        if kind == "ends":
            out = self._start("-a", name)
            if out is None:
                return
            assert out == text
            assert "A /data/mine" in run.lines("diff", name)
        elif kind == "runs":
            if state != "running" and self._start(name) is None:
                return
            wait_for(lambda: run("exec", name, "/bin/cat", "/data/mine") == text)
        else:  # a build's own
            done = run.run("rm", "-f", name, code=None)
            if done.returncode != 0:
                assert b"in use by the kernel" in done.stderr, done.stderr.decode()
                self._remove_stray(name)

    def _start(self, *words: str) -> str | None:
        """What it says. None: containerd has a task that dockerd does not know, since it died over the start. It cannot
        start that container ever again; this one is removed.
        """
        run = self.both.docker
        done = run.run("start", *words, code=None)
        if done.returncode == 0:
            return done.stdout.decode().strip()
        name = words[-1]
        assert b"already" in done.stderr, done.stderr.decode() + run.said()
        self._remove_stray(name)
        return None

    def _remove_stray(self, name: str) -> None:
        """Its processes are nobody's since dockerd died, and have the layer mounted: they end first."""
        run = self.both.docker
        self.strays += 1
        run.end_containers(run("inspect", "--format", "{{.Id}}", name))
        run("rm", "-f", name)

    def tidy(self, number: int) -> None:
        """Remove what is older."""
        run, old = self.both.docker, number - KEPT
        for name in (f"ends{old}", f"runs{number}"):
            run.run("rm", "-f", name, code=None)
        run.run("rmi", "-f", f"built:{old}", f"committed:{old}", code=None)
        names = run.lines("ps", "-a", "--format", "{{.Names}}")
        assert not {f"ends{old}", f"runs{number}"} & set(names)


def require_told(both: Both) -> None:
    """Of the layers that are left, when dockerd lists nothing any more, the audit tells each that dockerd has
    no record of; the others are those of containers of builds, whose records it never looks at again.
    """
    records = both.docker.data / "image" / both.docker.driver / "layerdb" / "mounts"
    recorded = {path.read_text() for path in records.glob("*/*-id")}
    report = audit(both.home, docker_root=both.docker.data)
    assert {"unknown-to-docker"} >= {f.code for f in report.findings}, report.findings
    with Store.open(both.home, read_only=True) as reader:
        left = {str(layer.id): str(layer.parent) for layer in reader.layers()}
    while more := {left[x] for x in recorded if x in left} & set(left) - recorded:
        recorded |= more
    assert set(left) - recorded == {f.layer for f in report.findings}


def mounts_below(place: Path) -> list[str]:
    """In the order in which they were made."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [path for path in found if path.startswith(f"{place}/")]


@contextlib.contextmanager
def boot_ids_of_its_own(machine: Machine) -> Iterator[None]:
    """The kernel's is to be seen again afterwards."""
    try:
        yield
    finally:
        for _ in range(machine.boots):
            subprocess.run(["umount", BOOT_ID], check=True)


def test_whatever_ends_what_dockerd_has_works(
    bare: Path, record_property: Callable[[str, object], None]
) -> None:
    """After each round images run, containers start, nothing is mounted that is not in use, and the audit
    finds nothing; at the end everything can be removed to the last directory.
    """
    with docker_on_layerstore(bare, activated=True) as both:
        context = bare / "context"
        context.mkdir()
        machine = Machine(both, context, random.Random(SEED))
        both.docker("import", "-", "bb", feed=busybox())
        with boot_ids_of_its_own(machine):
            for number in range(ROUNDS):
                what = ENDS[number % len(ENDS)]
                began, before = time.monotonic(), machine.refused()
                worker = threading.Thread(target=machine.work, args=(number,), daemon=True)
                worker.start()
                time.sleep(machine.chance.uniform(0.0, 1.5))
                machine.end(what)
                worker.join(120)
                assert not worker.is_alive()
                refused = machine.refused() - before
                machine.check(number, may_forget=refused > 0)
                machine.tidy(number)
                print(f"round {number} {what} {time.monotonic() - began:.1f} s", flush=True)
            record_property("commands_failed", machine.failures)
            remove_everything(both.docker)
            assert () == audit(both.home).findings
            both.docker.end()
            require_told(both)
            counts = (
                f"{machine.failures} commands failed, {machine.strays} tasks unknown to dockerd"
            )
            print(f"{counts}, {machine.refused()} refused")
            print(f"layers that dockerd forgot: {forget(both.home)}")
            require_empty(both.home)
