"""Owns the scenarios: every verb, in every configuration that changes its steps.

A template is a home that is built once and copied for each round; `given` is done in the process
that will be killed, before the fault is armed, and `when` after it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from layerstore import place
from layerstore.db import engine
from layerstore.fs import layout
from tests.crash.model import (
    Accomplice,
    Adopt,
    Apply,
    Cleanup,
    Close,
    Compact,
    Create,
    CreateAndCompact,
    Facts,
    Fetch,
    Get,
    GetLost,
    Import,
    Initialize,
    KeepOpen,
    Live,
    Meanwhile,
    Open,
    Put,
    Rebuild,
    Refused,
    Release,
    Remove,
    Repair,
    Restore,
    Save,
    State,
    Verb,
    Write,
)
from tests.crash.recorded import Record


@attrs.frozen
class Template:
    """How a home is made, and what an open of it must make of it."""

    verbs: tuple[Verb, ...] = ()
    tamper: Callable[[Path], None] | None = None
    """Done to the home in a process of its own, when nobody has it open."""
    expect: Callable[[State], State] = State.after_death
    mounted: tuple[str, ...] | None = None
    """What is mounted in each copy: by default what was mounted when the template was ready."""
    exists: bool = True


@attrs.frozen
class Scenario:
    name: str
    template: str
    given: tuple[Verb, ...]
    when: tuple[Verb, ...]
    mends: str = "open"
    """What a user does after the death: `open`, `initialize` first, `rebuild` or `adopt` if need be,
    or `repair` after the open."""
    renewed: tuple[str, ...] = ()
    """Layers of the template that are removed and created again, with another link."""
    busy: bool = False
    """Something is busy here, and stays so."""
    lost: tuple[str, ...] = ()
    """Layers whose mount somebody took away: it may be in another namespace, so an open leaves
    it on record, and the next get finds out."""


_LABELS: Final = (("app", "web"), ("empty", ""))
_CHILD: Final = Facts(parent="base", labels=_LABELS)
CHAIN: Final = (
    Initialize(),
    Open(),
    Create("base", Facts(labels=(("kind", "base"),))),
    Write("base", "etc", "of the base\n"),
    Create("mid", _CHILD),
    Get("mid"),
    Write("mid", "marker", "of mid\n"),
    Put("mid"),
)
_FILES: Final = (("etc", "of an archive\n"),)
_GONE: Final = "G" * 26
STRAY: Final = "S" * 26
_STRAY_CHILD: Final = "T" * 26


# --- what a machine that died leaves ------------------------------------------------------------


def change_database(home: Path, *statements: str) -> None:
    """Change rows behind the library's back."""
    connection = engine.driver.connect(os.fspath(home / layout.DATABASE), isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _other_boot(home: Path) -> None:
    """As if everything so far had been written before the machine was booted anew."""
    change_database(
        home,
        "UPDATE owners SET boot_id='an-earlier-boot'",
        "UPDATE events SET boot_id='an-earlier-boot'",
        "UPDATE mounts SET boot_id='an-earlier-boot'",
    )


def plain_layer(home: Path, place: str, link: str, lower: str | None) -> None:
    """The directory of a layer that nobody's journal knows."""
    for name in ("diff",) if lower is None else ("diff", "work"):
        os.makedirs(home / place / name)
    (home / place / "link").write_text(link)
    if lower is not None:
        (home / place / "lower").write_text(lower)


def _lost_intents(home: Path) -> None:
    """A power cut took the newest intents; their effects on the tree had been written."""
    _other_boot(home)
    # a create: staging, and a link that leads nowhere yet
    plain_layer(home, f"{layout.STAGING}/{'a' * 32}", "Q" * 26, None)
    os.symlink("../nobody/diff", home / "l" / ("Q" * 26))
    # a probe
    os.makedirs(home / layout.STAGING / ("b" * 32 + "-probe") / "upper")
    # a get, after it made the mountpoint
    os.mkdir(home / "mid" / layout.MERGED, 0o700)
    # a remove, after its rename
    os.rename(home / "gone", home / layout.TRASH / ("c" * 32))
    # two creates that were whole
    plain_layer(home, "stray", STRAY, None)
    os.symlink("../stray/diff", home / "l" / STRAY)
    plain_layer(home, "stray-child", _STRAY_CHILD, f"l/{STRAY}")
    os.symlink("../stray-child/diff", home / "l" / _STRAY_CHILD)
    (home / "stray" / "committed").touch()
    # a directory entry that never came to the disk
    os.unlink(home / "l" / (home / "mid" / "link").read_text())


def _with_strays(state: State) -> State:
    state = state.after_death().without_layer("gone")
    return state.with_layer("stray", Facts()).with_layer("stray-child", Facts(parent="stray"))


def _new_kernel(home: Path) -> None:
    """The probes are of another boot, so the next open tries everything out again."""
    _other_boot(home)
    path = home / layout.PROBES
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "an-earlier-boot"}))


def _suspect(home: Path) -> None:
    """Somebody met an I/O error: the next open writes the journal anew."""
    (home / layout.SUSPECT).write_text("a sync failed\n")


def _found_mounted(home: Path) -> None:
    _other_boot(home)
    os.mkdir(home / "mid" / "merged", 0o700)


def _copied(home: Path) -> None:
    """The home is a copy: the store that it was made of lies beside it."""
    original = home.parent / "original"
    shutil.rmtree(original, ignore_errors=True)
    (original / layout.OWN).mkdir(parents=True)
    shutil.copy(home / layout.STORE_FILE, original / layout.STORE_FILE)
    record = place.recorded(home)
    assert record is not None
    place.write(home, attrs.evolve(record, path=os.fspath(original)))


def _moved(home: Path) -> None:
    """The home was copied, and removed where it was."""
    _copied(home)
    shutil.rmtree(home.parent / "original")
    record = place.recorded(home)
    assert record is not None
    place.write(home, attrs.evolve(record, volume="1", file_system="2"))


def _nameless(home: Path) -> None:
    (home / "mid" / "link").write_text("garbled")


# --- what others do meanwhile -------------------------------------------------------------------


def _docker_creates(home: Path) -> None:
    """Another driver makes a layer of that name."""
    plain_layer(home, "a", STRAY, None)
    (home / "a" / "diff" / "precious").write_text("of another\n")


def _taken_for_dead(home: Path) -> None:
    """Somebody removes the lock files of the living, and opens the store."""
    for name in os.listdir(home / layout.OWNERS):
        os.unlink(home / layout.OWNERS / name)
    other = Live(home)
    Open().act(other)
    Close().act(other)


TEMPLATES: Final = {
    "void": Template(exists=False),
    "empty": Template((Initialize(),)),
    "chain": Template((*CHAIN, Close())),
    "read-base": Template(
        # The base was held, so what it has is not known to be on the disk.
        (
            Initialize(),
            Open(),
            Create("base"),
            Get("base"),
            Write("base", "etc", "of the base\n"),
            Put("base"),
            Close(),
        )
    ),
    "draining": Template(
        (
            *CHAIN,
            Get("mid", "docker"),
            KeepOpen("mid", longer=False),
            Put("mid", "docker"),
            Close(),
        )
    ),
    "held": Template((*CHAIN, Create("leaf", Facts("base")), Get("mid", "docker"), Close())),
    "held-base": Template((*CHAIN, Get("base", "docker"), Close())),
    "lost-mount": Template((*CHAIN, Get("mid", "docker"), Close()), mounted=()),
    "many": Template(
        (
            *CHAIN,
            Create("leaf", Facts("base", read_write=True)),
            Create("top", Facts("mid")),
            Close(),
        )
    ),
    "dead": Template(
        (
            *CHAIN,
            Create("leaf", Facts("base")),
            Get("leaf", "docker"),
            Get("leaf"),
            Write("leaf", "data", "of leaf\n"),
            Get("mid"),
            Get("base"),
            Get("base", "docker"),
        )
    ),
    "recorded": Template(
        (
            *CHAIN,
            Create("a", _CHILD),
            Apply("a", _FILES),
            Record("a"),
            Create("b", _CHILD),
            Apply("b", _FILES),
            Record("base"),
            Close(),
        )
    ),
    "compacted": Template((*CHAIN, Compact(keep=3), Create("leaf", Facts("base")), Close())),
    "lost-intents": Template(
        (*CHAIN, Create("gone"), Write("gone", "old", "going\n"), Get("base", "docker")),
        tamper=_lost_intents,
        expect=_with_strays,
    ),
    "rebooted": Template(
        (*CHAIN, Get("mid", "docker"), Get("base", "docker"), Get("mid")),
        tamper=_other_boot,
        mounted=(),
        # The machine took the mounts; a base layer is not mounted, so its hold stays.
        expect=lambda state: state.without_holds(
            lambda layer, holder: layer == "mid" or holder == "me"
        ),
    ),
    "new-kernel": Template((*CHAIN,), tamper=_new_kernel),
    "suspect": Template((*CHAIN, Close()), tamper=_suspect),
    "saved": Template(
        (
            *CHAIN,
            Create("gone"),
            Get("mid"),
            Save(),
            Remove("gone"),
            Create("late", _CHILD),
            Get("late", "docker"),
            Create("half"),
        ),
        # What is mounted when an older database is put back gets a holder, whoever had it.
        expect=lambda state: state,
    ),
    "copied": Template(
        (*CHAIN, Get("mid", "docker"), Get("base", "docker"), Get("mid")),
        tamper=_copied,
        mounted=(),
        expect=lambda state: state,
    ),
    "moved": Template(
        (*CHAIN, Get("mid", "docker"), Get("base", "docker"), Get("mid")),
        tamper=_moved,
        mounted=(),
        expect=lambda state: state.without_holds(lambda layer, holder: layer == "mid"),
    ),
    "nameless": Template((*CHAIN, Close()), tamper=_nameless),
    "found-mounted": Template(
        (*CHAIN,),
        tamper=_found_mounted,
        mounted=("mid",),
        expect=lambda state: state.after_death().with_hold("mid", "unknown", 1),
    ),
}

_IMAGE: Final = (_FILES, (("more", "of another\n"),))
_O = (Open(),)
_P = (Open("process"),)
_D = "docker"
_PUBLISH = "create:*:Publish:before"
_OUTCOME = "create:outcome:before"

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        # the store itself
        Scenario("initialize", "void", (), (Initialize(),), mends="initialize"),
        Scenario("initialize-open", "void", (), (Initialize(), Open(), Create("a")), "initialize"),
        Scenario("open-close", "chain", (), (Open(), Close())),
        Scenario("close-holding", "many", (*_O, Get("mid"), Get("mid"), Get("base")), (Close(),)),
        Scenario("rebuild", "compacted", (), (Rebuild(),), mends="rebuild"),
        Scenario("rebuild-mounted", "held", (), (Rebuild(),), mends="rebuild"),
        # create
        Scenario("create-base", "empty", _O, (Create("a", Facts(labels=_LABELS)),)),
        Scenario("create-child", "chain", _O, (Create("a", _CHILD),)),
        Scenario("create-sync-parent", "read-base", _O, (Create("a", Facts("base")),)),
        Scenario("create-probe-parent", "draining", _O, (Create("a", Facts("mid")),)),
        Scenario("create-refused", "chain", _O, (Refused(Create("mid", _CHILD)),)),
        Scenario(
            "create-collides",
            "chain",
            _O,
            (Meanwhile(Create("a", _CHILD), _PUBLISH, _docker_creates, "layer-exists", "a"),),
        ),
        Scenario(
            "create-usurped",
            "chain",
            _O,
            (Meanwhile(Create("a", _CHILD), _OUTCOME, _taken_for_dead, "owner-lost"),),
        ),
        Scenario("create-read-write", "chain", _O, (Create("a", Facts("mid", read_write=True)),)),
        Scenario(
            "create-get-remapped",
            "chain",
            (Open(maps=("0:100000:65536",)),),
            (Create("a", _CHILD), Get("a", _D)),
        ),
        Scenario("create-base-process", "empty", _P, (Create("a"), Close())),
        Scenario("create-child-process", "chain", _P, (Create("a", _CHILD), Close())),
        # get
        Scenario("get-first-own", "chain", _O, (Get("mid"),)),
        Scenario("get-first-name", "chain", _O, (Get("mid", _D),)),
        Scenario("get-first-committed", "many", _O, (Get("mid", _D),)),
        Scenario("get-more-own", "held", _O, (Get("mid"), Get("mid"))),
        Scenario("get-more-name", "held", _O, (Get("mid", _D), Get("mid", "other"))),
        Scenario("get-base", "chain", _O, (Get("base"), Get("base", _D))),
        Scenario("get-draining", "draining", _O, (Get("mid", _D),)),
        Scenario("get-lost-mount", "lost-mount", _O, (GetLost("mid", "other"),), lost=("mid",)),
        # put
        Scenario("put-not-last", "held", (*_O, Get("mid", _D), Get("mid")), (Put("mid", _D),)),
        Scenario("put-last-own", "chain", (*_O, Get("mid")), (Put("mid"),)),
        Scenario("put-last-name", "held", _O, (Put("mid", _D),)),
        Scenario("put-last-committed", "many", (*_O, Get("mid", _D)), (Put("mid", _D),)),
        Scenario("put-busy", "held", (*_O, KeepOpen("mid", False)), (Put("mid", _D),), busy=True),
        Scenario(
            "put-busy-longer", "held", (*_O, KeepOpen("mid", True)), (Put("mid", _D),), busy=True
        ),
        Scenario("put-base", "held-base", _O, (Put("base", _D),)),
        Scenario("put-refused", "chain", _O, (Refused(Put("mid", _D)),)),
        # remove
        Scenario("remove-base", "read-base", _O, (Remove("base"),)),
        Scenario("remove-child", "chain", _O, (Remove("mid"),)),
        Scenario("remove-mounted", "chain", (*_O, Get("mid")), (Remove("mid"),)),
        Scenario("remove-draining", "draining", _O, (Remove("mid"),)),
        Scenario("remove-refused", "many", _O, (Refused(Remove("mid")),)),
        Scenario("remove-process", "chain", _P, (Remove("mid"), Remove("base"))),
        # apply
        Scenario("apply-child", "chain", (*_O, Create("a", _CHILD)), (Apply("a", _FILES),)),
        Scenario("apply-nothing", "chain", (*_O, Create("a", _CHILD)), (Apply("a"),)),
        Scenario("apply-refused", "chain", _O, (Refused(Apply("base", _FILES)),)),
        # manifests
        Scenario("record-applied", "recorded", _O, (Record("b"),)),
        Scenario("get-recorded", "recorded", _O, (Get("a", _D),)),
        # cleanup and release
        Scenario("cleanup", "held", (*_O, Get("leaf")), (Cleanup(),)),
        Scenario("release", "held", (*_O, Get("leaf", _D), Get("base", _D)), (Release(_D),)),
        # repair; tests/crash/repairs.py has more of it
        Scenario("repair-file", "nameless", _O, (Repair(),), mends="repair"),
        # compaction
        Scenario(
            "compact-again", "compacted", (*_O, Get("mid")), (Compact(keep=0, keep_archives=1),)
        ),
        Scenario(
            "compact-in-flight",
            "chain",
            (*_O, Accomplice((Create("a", _CHILD),), "create:outcome:before"), Get("base", _D)),
            (Compact(keep=0),),
        ),
        Scenario("compact-automatic", "chain", (Open("process", 10),), (CreateAndCompact("a"),)),
        # what an open finds
        Scenario("open-dead", "dead", (), (Open(), Close())),
        Scenario("open-lost-intents", "lost-intents", (), (Open(), Close())),
        Scenario("open-rebooted", "rebooted", (), (Open(), Close())),
        Scenario("open-new-kernel", "new-kernel", (), (Open(), Close())),
        Scenario("open-suspect", "suspect", (), (Open(), Close())),
        Scenario("open-found-mounted", "found-mounted", (), (Open(), Close())),
        # what a verb meets: an operation whose owner died while this store was open
        Scenario(
            "meet-create",
            "chain",
            (*_O, Accomplice((Create("a", _CHILD),), "create:outcome:before")),
            (Create("a", _CHILD),),
        ),
        Scenario(
            "meet-get",
            "chain",
            (*_O, Accomplice((Get("mid", "gone"),), "mount:outcome:before")),
            (Get("mid", _D),),
        ),
        Scenario(
            "meet-put",
            "held",
            (*_O, Accomplice((Put("mid", _D),), "unmount:intent:after", (Put("mid", _D),))),
            (Get("mid", _D),),
        ),
        Scenario(
            "meet-remove",
            "chain",
            (*_O, Accomplice((Remove("mid"),), "remove:outcome:before", (Remove("mid"),))),
            (Create("mid", Facts("base")),),
            renewed=("mid",),
        ),
        Scenario(
            "meet-holder",
            "chain",
            (*_O, Accomplice((Get("mid"), Create("b")), "create:intent:after")),
            (Remove("mid"),),
        ),
        # a whole life
        Scenario(
            "life",
            "empty",
            (),
            (
                Open(),
                Create("base"),
                Write("base", "etc", "of the base\n"),
                Create("a", _CHILD),
                Get("a", _D),
                Write("a", "marker", "of a\n"),
                Get("a"),
                Put("a", _D),
                Put("a"),
                Remove("a"),
                Remove("base"),
                Close(),
            ),
        ),
    )
}

LONG: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("restore", "saved", (), (Restore(("late", "half")),)),
        Scenario("adopt-copy", "copied", (), (Adopt(),), mends="adopt"),
        Scenario("open-moved", "moved", (), (Open(), Close())),
        Scenario("record-committed-process", "held", _P, (Record("base"),)),
        Scenario("remove-recorded", "recorded", _O, (Remove("a"),)),
        Scenario("import", "empty", (*_O, Fetch(_IMAGE)), (Import(_IMAGE),)),
    )
}
"""What the short form of the campaigns leaves out; tests/store and tests/images die at each of their
trace points."""
