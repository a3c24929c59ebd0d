"""Owns what happens in `layerstore demo`, scene by scene; every claim in it is looked at first."""

from __future__ import annotations

import os
import signal
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import layerstore
from layerstore.cli import demo_holder, demo_image
from layerstore.cli.demo_image import LIBRARY
from layerstore.cli.failpoint import VARIABLE

if TYPE_CHECKING:
    from layerstore.cli.demo import Story
    from layerstore.store import Store

ROUNDS: Final = 15
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_GREETING: Final = '''"""A module that is in no Python."""


def hello() -> str:
    return "Hello from a module that only the layer 'greeting' has."
'''

_INSIDE: Final = """
import importlib.util, os, greeting
print(greeting.hello())
print("The module os was loaded from", os.__file__)
print("antigravity is", "there" if importlib.util.find_spec("antigravity") else "gone")
"""


@attrs.define
class Stage:
    """Where the scenes play."""

    home: Path
    story: Story
    base: str = ""
    """The top layer of the image that the others are stacked on."""
    given: list[str] = attrs.field(factory=list)
    """The layers of the user's image, the highest first."""

    def diff(self, layer: str) -> Path:
        return self.home / layer / "diff"

    def environment(self, **more: str) -> dict[str, str]:
        """For a child: no settings of the user's, and this very package."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("LAYERSTORE_")}
        package = os.path.dirname(os.path.dirname(os.path.abspath(layerstore.__file__)))
        paths = [package, own.get("PYTHONPATH", "")]
        own["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        return {**own, "NO_COLOR": "1", **more}

    def program(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user would, and show it."""
        shown = " ".join(words)
        prefix = "".join(f"{key}='{value}' " for key, value in environment.items())
        self.story.say(f"$ {prefix}layerstore {shown}")
        done = subprocess.run(
            [sys.executable, "-P", "-m", "layerstore", "--home", os.fspath(self.home), *words],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        self.story.show((done.stdout + done.stderr).splitlines())
        return done


def play(home: Path, story: Story, *, keep: bool, archive: str | None = None) -> None:
    """All scenes, in order."""
    from layerstore.store import Store

    stage = Stage(home, story)
    story.scene("1. A store")
    Store.initialize(home)
    story.say(f"Made an empty store at {home}.")
    with Store.open(home) as store:
        stage.base = demo_image.base_image(stage, store)
        if archive is not None:
            stage.given = demo_image.given_image(stage, store, archive)
        layers(stage, store)
        mounted(stage, store)
    killed(stage)
    reopened(stage)
    witnesses(stage)
    with Store.open(home) as store:
        timings(stage, store)
        if not keep:
            farewell(stage, store)


def layers(stage: Stage, store: Store) -> None:
    """Two layers on top: one adds and deletes, one is for running things."""
    stage.story.scene("3. Layers on top of it")
    store.create("greeting", parent=stage.base)
    with store.mounted("greeting") as path:
        (path / LIBRARY / "greeting.py").write_text(_GREETING)
        (path / LIBRARY / "antigravity.py").unlink(missing_ok=True)
    store.create_read_write("app", parent="greeting", labels={"purpose": "demo"})
    stage.story.say("Layer 'greeting' adds a module and deletes another; 'app' is stacked on it.")
    stage.program("tree")
    hidden = stage.diff("greeting") / LIBRARY / "antigravity.py"
    stage.story.check(
        "'greeting' holds its own changes only: a new file, and a whiteout that hides the old one",
        _names(stage.diff("greeting")) == {f"{LIBRARY}/greeting.py", f"{LIBRARY}/antigravity.py"}
        and stat.S_ISCHR(hidden.lstat().st_mode)
        and (stage.diff(stage.base) / LIBRARY / "antigravity.py").is_file(),
    )
    stage.story.check(
        "the index answers for the chain without reading the tree",
        [layer.id for layer in store.ancestors("app")][:2] == ["greeting", stage.base]
        and all(Path(path).resolve().is_dir() for path in store.lower_dirs("app")),
    )


def mounted(stage: Stage, store: Store) -> None:
    """A mount, a program that runs inside it, and a copy-up."""
    from layerstore.fs import mountinfo

    stage.story.scene("4. Mounted, with a program running inside")
    path = store.get("app")
    stage.story.say(f"'app' is mounted at {path}.")
    stage.story.say("Python runs in it, with the mount as its root directory:")
    environment = demo_image.environment_of(store, stage.base)
    ran = demo_image.run_inside(path, ["/bin/python3", "-B", "-S", "-c", _INSIDE], environment)
    stage.story.show((ran.stdout + ran.stderr).splitlines())
    stage.story.check(
        "it ran from four layers seen as one",
        ran.returncode == 0
        and "Hello from" in ran.stdout
        and f"loaded from /{LIBRARY}/" in ran.stdout
        and "antigravity is gone" in ran.stdout,
    )
    lower = stage.diff(stage.base) / LIBRARY / "string.py"
    before = (lower.read_bytes(), lower.stat().st_mtime_ns)
    with (path / LIBRARY / "string.py").open("a") as file:
        file.write("# changed in the mount\n")
    stage.story.say("Changed string.py in the mount. The kernel copied it up into 'app' first:")
    stage.story.show(f"app/diff/{name}" for name in sorted(_names(stage.diff("app"))))
    stage.story.check(
        "the layer below was not touched",
        before == (lower.read_bytes(), lower.stat().st_mtime_ns)
        and _names(stage.diff("app")) == {f"{LIBRARY}/string.py"},
    )
    stage.story.check(
        "giving the last hold back unmounts it",
        mountinfo.is_mount_root(os.fspath(path))
        and store.put("app")
        and not mountinfo.is_mount_root(os.fspath(path)),
    )


def killed(stage: Stage) -> None:
    """One process dies while it has a layer mounted, another one in the middle of a create."""
    from layerstore.fs import mountinfo
    from layerstore.reader import Reader

    story = stage.story
    story.scene("5. Two processes are killed with SIGKILL")
    # A signal that ends the demo waits until it is known whom else that ends.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    holder = subprocess.Popen(
        [sys.executable, "-P", demo_holder.__file__, os.fspath(stage.home)],
        env=stage.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the demo alone.
        start_new_session=True,
    )
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert holder.stdout is not None
        path = holder.stdout.readline().strip()
        story.say(f"Process {holder.pid} has 'app' mounted and wrote a file there. And now:")
        point = "create:*:MakeSymlink:after"
        died = stage.program("create", "doomed", "--parent", "greeting", **{VARIABLE: point})
        story.check("the create was killed halfway", died.returncode == -signal.SIGKILL)
        story.say("What it left behind:")
        story.show(leftovers(stage.home))
        with Reader.open(stage.home) as reader:
            story.check(
                "half-made is not made: there is no layer 'doomed'", not reader.exists("doomed")
            )
    finally:
        holder.kill()
        holder.communicate()
    story.say(f"Then process {holder.pid} is killed, too. Its mount and its hold are still there:")
    stage.program("holders")
    story.check(
        "the kernel keeps the mount of a process that is gone",
        holder.returncode == -signal.SIGKILL and mountinfo.is_mount_root(path),
    )


def leftovers(home: Path) -> list[str]:
    """What lies about in the tree: staging, and short links that lead nowhere."""
    staging = home / ".layerstore" / "staging"
    found = [f".layerstore/staging/{path.relative_to(staging)}" for path in staging.glob("*/*")]
    links = [path for path in (home / "l").iterdir() if not path.exists()]
    found += [f"l/{path.name} -> {os.readlink(path)}  (leads nowhere)" for path in links]
    return sorted(found)


def reopened(stage: Stage) -> None:
    """Opening the store is all it takes."""
    from layerstore.fs import mountinfo
    from layerstore.store import Store

    story = stage.story
    story.scene("6. The store is opened again")
    started = time.perf_counter()
    store = Store.open(stage.home)
    took = time.perf_counter() - started
    with store:
        story.say(f"It opened in {took * 1000:.0f} ms. Recovery reports:")
        story.show(f"- {item.message}" for item in store.settled)
        story.facts["settled"] = store.settled
        story.check("it settled what both processes left", len(store.settled) >= 2)
        story.check(
            "nothing is left of the half-made layer",
            not store.exists("doomed")
            and not leftovers(stage.home)
            and not os.path.lexists(stage.home / "doomed"),
        )
        story.check(
            "the dead process holds nothing, and its mount is gone",
            not store.holders()
            and not store.mounts()
            and not mountinfo.is_mount_root(os.fspath(stage.home / "app" / "merged")),
        )
        note = stage.diff("app") / "note.txt"
        story.check(
            "what it had written is still in its layer",
            note.is_file() and note.read_text() == demo_holder.NOTE,
        )
        store.create("doomed", parent="greeting")
        store.remove("doomed")
        story.check(
            "the name is free: 'doomed' was created again, and removed again",
            not store.exists("doomed"),
        )


def witnesses(stage: Stage) -> None:
    """The audit, and the journal of the layer that was killed."""
    stage.story.scene("7. What the audit says")
    audited = stage.program("audit")
    stage.story.check("journal, index, tree and mounts agree", audited.returncode == 0)
    stage.story.scene("8. What the journal remembers of 'doomed'")
    told = stage.program("history", "doomed")
    kinds = [line.split()[3] for line in told.stdout.splitlines() if len(line.split()) > 3]
    stage.story.check(
        "it has the broken create and how it ended, and both later operations",
        kinds.count("layer.create.intended") == 2
        and kinds.count("layer.create.undone") == 1
        and kinds.count("layer.created") == 1
        and kinds.count("layer.removed") == 1,
    )


def timings(stage: Stage, store: Store) -> None:
    """How long the verbs take here, each one durable before it returns."""
    stage.story.scene("9. How long things take here")
    verbs: dict[str, Callable[[str], object]] = {
        "create": lambda layer: store.create(layer, parent="greeting"),
        "get (mounts)": store.get,
        "lower_dirs": store.lower_dirs,
        "put (unmounts)": store.put,
        "remove": store.remove,
    }
    taken: dict[str, list[float]] = {verb: [] for verb in verbs}
    for number in range(ROUNDS):
        for verb, run in verbs.items():
            started = time.perf_counter()
            run(f"timed-{number}")
            taken[verb].append((time.perf_counter() - started) * 1000)
    medians = {verb: statistics.median(values) for verb, values in taken.items()}
    stage.story.facts["median_ms"] = {verb: round(value, 3) for verb, value in medians.items()}
    stage.story.say(f"Median of {ROUNDS}, with everything synced to disk that was acknowledged:")
    stage.story.show(f"{verb:<15} {value:8.2f} ms" for verb, value in medians.items())


def farewell(stage: Stage, store: Store) -> None:
    """Take the layers away, the highest first."""
    image = [layer.id for layer in store.ancestors("greeting")]
    for layer in ("app", "greeting", *stage.given, *image):
        store.remove(layer)
    left = sorted(path.name for path in stage.home.iterdir() if path.name != ".layerstore")
    stage.story.check(
        "after removing the layers, the tree is empty",
        not list(store.layers()) and left == ["l"] and not any((stage.home / "l").iterdir()),
    )


def _names(directory: Path) -> set[str]:
    """Everything below a directory that is not a directory, relative to it."""
    return {
        os.fspath(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
