"""A real dockerd keeps its images and containers in a layerstore."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from tests.docker.daemon import (
    PLUGINS,
    Both,
    Docker,
    busybox,
    docker,
    docker_on_layerstore,
    missing,
    private_plugins,
    saved,
)
from tests.docker.serving import Served, in_threads

pytestmark = [
    pytest.mark.root,
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}"),
]

DOCKERFILE = """\
FROM bb AS made
RUN mkdir /out && echo built > /out/result && rm /data/deleted
COPY given /out/given
FROM scratch AS empty
COPY given /given
FROM bb
COPY --from=made /out /out
COPY --from=empty /given /data/changed
RUN rm -r /data/dir && ln -s kept /data/link && echo more >> /data/changed
"""
TIMED_DOCKERFILE = """\
FROM bb AS made
RUN mkdir /out && echo built > /out/result && rm /data/deleted && /bin/busybox touch -d @1700000000 /out/result
FROM scratch AS empty
COPY given /given
FROM bb
COPY --from=made /out/result /result
COPY --from=empty /given /copied
COPY given /given
RUN ln -s given /link && echo more > /more && /bin/busybox touch -h -d @1700000000 /link /more
"""
"""What it makes has one time, whenever it is made: directories are not changed, and nothing is deleted."""
CHANGING = "rm -r /data/dir; rm /data/deleted; echo x > /data/new; mv /data/kept /tmp/kept; mkdir /data/dir"


@pytest.fixture
def both(bare: Path) -> Iterator[Both]:
    """A dockerd on a layerstore."""
    with docker_on_layerstore(bare) as both:
        yield both


def build(run: Docker, context: Path, steps: str = DOCKERFILE) -> None:
    """Import a system and build on it, in stages."""
    run("import", "-", "bb", feed=busybox())
    context.mkdir(exist_ok=True)
    (context / "given").write_text("given\n")
    os.utime(context / "given", (1_700_000_000, 1_700_000_000))
    (context / "Dockerfile").write_text(steps)
    run("build", "--network", "none", "-t", "built", str(context))


def change(run: Docker, name: str) -> list[str]:
    """A container that changes files; what `docker diff` says of it."""
    run("run", "--network", "none", "--name", name, "bb", "/bin/sh", "-c", CHANGING)
    return sorted(run.lines("diff", name))


def remove_everything(run: Docker) -> None:
    """Containers, images and what is left of builds."""
    for container in run.lines("ps", "-aq"):
        run("rm", "-f", container)
    run("system", "prune", "-af")
    assert run.lines("images", "-aq") == []


def require_empty(home: Path) -> None:
    """The home holds the store's own files and nothing else."""
    assert sorted(os.listdir(home)) == [".layerstore", "l"]
    assert os.listdir(home / "l") == []
    assert os.listdir(home / ".layerstore" / "staging") == []
    with Store.open(home, read_only=True) as reader:
        assert ((), (), ()) == (reader.holders(), reader.mounts(), reader.operations())


def test_images_and_containers_live_in_it(both: Both, bare: Path) -> None:
    """Import, build, run, commit, diff, save, load, cp, rmi, prune, twenty containers at once; the
    audit finds nothing, and at the end nothing is left.
    """
    run = both.docker
    build(run, bare / "context")
    shown = run(
        "run", "--rm", "--network", "none", "built", "/bin/cat", "/out/result", "/data/changed"
    )
    assert shown == "built\ngiven\nmore"
    change(run, "changing")
    run("commit", "changing", "committed")
    assert run("run", "--rm", "--network", "none", "committed", "/bin/cat", "/data/new") == "x"
    (bare / "in").write_text("copied in\n")
    run("cp", str(bare / "in"), "changing:/data/in")
    run("cp", "changing:/data/in", str(bare / "out"))
    assert (bare / "out").read_text() == "copied in\n"
    archive = run.run("save", "built").stdout
    run("rmi", "built")
    run("load", feed=archive)
    assert run("run", "--rm", "--network", "none", "built", "/bin/cat", "/out/given") == "given"

    def one(number: int) -> None:
        script = f"echo {number} > /data/mine; cat /data/mine"
        out = run("run", "--network", "none", "--name", f"c{number}", "bb", "/bin/sh", "-c", script)
        assert out == str(number)

    in_threads(20, one)
    assert () == audit(both.home).findings
    with Store.open(both.home, read_only=True) as reader:
        assert () == reader.holders()
    remove_everything(run)
    assert () == audit(both.home).findings
    run.end()
    require_empty(both.home)


def test_it_is_what_the_built_in_driver_makes_of_it(both: Both, bare: Path) -> None:
    """Images go from overlay2 to layerstore and back with the same digests; the layers of a build have
    the same content, and `docker diff` the same lines.
    """
    with docker(bare / "overlay2", "overlay2") as other:
        first, second = both.docker, other
        for run in (first, second):
            build(run, bare / "context")
        assert change(first, "changing") == change(second, "changing")
        made = [saved(run.run("save", "built").stdout) for run in (first, second)]
        assert made[0].members == made[1].members
        assert made[0].diff_ids[0] == made[1].diff_ids[0]
        for source, target in ((first, second), (second, first)):
            source("commit", "changing", "moved")
            source("tag", "built", "gone")
            for image in ("moved", "gone"):
                archive = source.run("save", image).stdout
                target("load", feed=archive)
                there = target.run("save", image).stdout
                assert saved(archive) == saved(there)
                assert saved(there).archives == saved(there).diff_ids
                target("rmi", image)
                source("rmi", image)


def test_a_build_has_the_digests_of_the_built_in_driver(both: Both, bare: Path) -> None:
    """Every layer of a build in stages, where nothing in it depends on the time of the build."""
    with docker(bare / "overlay2", "overlay2") as other:
        made = []
        for run in (both.docker, other):
            build(run, bare / "context", TIMED_DOCKERFILE)
            made.append(saved(run.run("save", "built").stdout))
    assert 5 == len(made[1].archives)
    assert made[1] == made[0]


def test_one_server_serves_two_daemons(bare: Path) -> None:
    """Each has a socket and a home, at the same time, images of the same names included; a daemon that ends
    leaves the other one its containers.
    """
    names = [f"{bare.name.lower().replace('_', '-')}-{name}" for name in ("one", "two")]
    with private_plugins():
        served = Served(PLUGINS / f"{names[0]}.sock", bare, bare / "server.log")
        served.words = ("--socket", str(PLUGINS / f"{names[1]}.sock"))
        try:
            served.start()
            with (
                docker(bare / "first", names[0]) as first,
                docker(bare / "second", names[1]) as second,
            ):
                for run in (first, second):
                    run("import", "-", "bb", feed=busybox())

                def one(number: int) -> None:
                    change((first, second)[number], "changing")

                in_threads(2, one)
                remove_everything(first)
                first.end()
                require_empty(first.data / names[0])
                assert "A /data/new" in second.lines("diff", "changing")
                assert () == audit(second.data / names[1]).findings
                remove_everything(second)
                second.end()
                require_empty(second.data / names[1])
        finally:
            served.close()


def test_a_daemon_that_starts_again_finds_its_containers(both: Both) -> None:
    """Ended and started, it starts the same containers, and what it removes is gone."""
    run = both.docker
    run("import", "-", "bb", feed=busybox())
    run(
        "run", "--network", "none", "--name", "kept", "bb", "/bin/sh", "-c", "echo kept > /data/new"
    )
    run(
        "run",
        "-d",
        "--stop-timeout",
        "1",
        "--network",
        "none",
        "--name",
        "up",
        "bb",
        "/bin/sleep",
        "1000",
    )
    run.end()
    with Store.open(both.home, read_only=True) as reader:
        assert ((), ()) == (reader.holders(), reader.mounts())
    run.start()
    run("start", "up")
    assert run("exec", "up", "/bin/cat", "/data/changed") == "12345"
    assert "A /data/new" in run.lines("diff", "kept")
    remove_everything(run)
    run.end()
    require_empty(both.home)


@pytest.mark.parametrize("live", [False, True], ids=["", "live-restore"])
def test_a_daemon_that_was_killed_starts_anew(both: Both, live: bool) -> None:
    """Killed with a container running, with live-restore or without: counts follow Docker's rule, no mount
    is left behind, the container runs again, and everything can be removed.
    """
    run = both.docker
    if live:
        run.end()
        run.more = ("--live-restore",)
        run.start()
    run("import", "-", "bb", feed=busybox())
    sleep = ("--network", "none", "bb", "/bin/sleep", "1000")
    for name in ("one", "two"):
        run("run", "-d", "--stop-timeout", "1", "--name", name, *sleep)
    run("create", "--name", "never", *sleep)
    run.end(signal.SIGKILL)
    run.start()
    with Store.open(both.home, read_only=True) as reader:
        counts = {hold.layer: hold.count for hold in reader.holders()}
        assert set(counts.values()) == ({1} if live else set())
        assert len(counts) == len(reader.mounts()) == (2 if live else 0)
    if not live:
        run("start", "one")
    assert run("exec", "one", "/bin/cat", "/data/changed") == "12345"
    run("rm", "-f", "two")
    run("stop", "one")
    with Store.open(both.home, read_only=True) as reader:
        assert ((), ()) == (reader.holders(), reader.mounts())
    remove_everything(run)
    assert () == audit(both.home).findings
    run.end()
    require_empty(both.home)
