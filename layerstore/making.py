"""Owns making a store, and making its database anew from the tree; no verb on a layer.

Both give a database that asks its first open for a comparison with the tree.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import attrs

from layerstore import (
    access,
    adoption,
    codec,
    copies,
    description,
    opening,
    place,
    recovery,
    restoring,
)
from layerstore import events as e
from layerstore import model as m
from layerstore.db import engine, paths
from layerstore.db import statements as sql
from layerstore.errors import InvalidArgument, LayerstoreError, NotAStoresPlace, StoreExists
from layerstore.fs import ballast, durable, files, layout, locks, mountinfo, namespaces


def initialize(home: Path, *, max_depth: int) -> None:
    """Make a store at `home`, which may be an empty directory.

    Raises StoreExists, NotAStoresPlace, CannotCarryOverlay, InvalidArgument. `store.json` comes last: until it is
    there, nothing is a store.
    """
    if not 1 <= max_depth <= m.MAX_DEPTH:
        raise InvalidArgument(f"max_depth must be 1 to {m.MAX_DEPTH}, not {max_depth}.")
    paths.make_reachable(os.fspath(home / layout.OWN / access.NEW_DATABASE), engine.DRIVER)
    is_there = os.path.lexists(home)
    opening.check_rights("A store", home)
    _make_home(home)
    if (home / layout.STORE_FILE).exists():
        raise StoreExists(
            f"{home} is a layerstore already.", hint="Open it; 'layerstore status' shows it."
        )
    _refuse_what_is_there(home)
    made = _make_own(home)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=30):
        if (home / layout.STORE_FILE).exists():
            raise StoreExists(f"{home} is a layerstore already.")
        try:
            _refuse_other_mounts(home)
            if namespaces.in_user_namespace() and _mark_user_xattrs(home):
                made.append(home / layout.USER_XATTRS)
            opening.probe_home(home, insist=True)
        except LayerstoreError:
            _take_back(made if is_there else [home, *made])
            raise
        about = description.new(max_depth)
        new_database(home, about, e.StoreInitialized(about.store_id, max_depth))
        ballast.restore(os.fspath(home))
        durable.sync_directory(os.fspath(home))
        durable.sync_directory(os.fspath(home.parent))
        place.write(home, place.here(home))
        description.write(home, about)


def _make_home(home: Path) -> None:
    try:
        home.mkdir(mode=layout.HOME_MODE)
        home.chmod(layout.HOME_MODE)
    except FileExistsError:
        if not home.is_dir():
            raise InvalidArgument(f"{home} is not a directory.") from None
    except FileNotFoundError:
        raise InvalidArgument(
            f"There is no directory {home.parent}.", hint="Make it first; only the last is made."
        ) from None
    except OSError as error:
        raise LayerstoreError(f"{home} cannot be made: {error.strerror}.") from error


def _refuse_what_is_there(home: Path) -> None:
    """Only what an initialization that was killed leaves may be there already."""
    known = {layout.OWN, layout.LINKS, "lost+found"}
    there = sorted(path.name for path in home.iterdir() if path.name not in known)
    links = home / layout.LINKS
    if there or (links.is_dir() and any(links.iterdir())):
        raise NotAStoresPlace(
            f"{home} is not empty: it has {', '.join(there[:3]) or 'links to layers'}.",
            hint="Take an empty directory. If a store was here, 'layerstore db rebuild' makes its "
            "database anew.",
        )


def _has_own(home: Path) -> bool:
    """Whether there is more of a store than an empty directory, which an adopt leaves that is killed."""
    own = home / layout.OWN
    lock = os.path.basename(layout.STORE_LOCK)
    return own.is_dir() and any(
        path.name != lock and not path.name.endswith(".tmp") for path in own.iterdir()
    )


def _refuse_foreign(home: Path) -> None:
    """A tree without our own directory may be somebody else's, and corrections would change it."""
    marks = (
        home.parent / "image" / home.name / "layerdb",
        home.parent / f"{home.name}-layers",
    )
    for mark in marks:
        if mark.exists():
            raise NotAStoresPlace(
                f"{home} belongs to another program: there is {mark}.",
                hint="This version does not adopt the trees of others.",
            )


def _refuse_other_mounts(home: Path) -> None:
    """Layers are renamed out of staging and into the trash, which no mount may part from the home."""
    for name in (layout.STAGING, layout.TRASH, layout.LINKS):
        place = home / name
        parted = mountinfo.mount_id(os.fspath(place)) != mountinfo.mount_id(os.fspath(home))
        # Another subvolume of btrfs is no mount, and has another device.
        if parted or place.stat().st_dev != home.stat().st_dev:
            raise NotAStoresPlace(
                f"{place} is not on the file system of {home}.",
                hint="A store, with everything in it, is one directory on one file system.",
            )


def _mark_user_xattrs(home: Path) -> bool:
    """Have this store's layers marked by `user.overlay.*` from now on; whether that is new."""
    if files.uses_user_xattrs(os.fspath(home)):
        return False
    text = "Made in a user namespace: overlays of this store are mounted with userxattr.\n"
    durable.replace_file(os.fspath(home / layout.USER_XATTRS), text, mode=0o600)
    return True


def _take_back(made: list[Path]) -> None:
    """Remove what a refused initialization made, and nothing that has got content since."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def _make_own(home: Path) -> list[Path]:
    """The store's own directories, and `l/`; each may be there already. Those that were not."""
    made = []
    try:
        for name in (
            layout.OWN,
            layout.STAGING,
            layout.TRASH,
            layout.QUARANTINE,
            layout.OWNERS,
            layout.LINKS,
        ):
            if not (home / name).exists():
                made.append(home / name)
            (home / name).mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
        if not (home / layout.STORE_LOCK).exists():
            made.append(home / layout.STORE_LOCK)
        descriptor = os.open(home / layout.STORE_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
        # Last: what is made in a directory that has it gets it, too.
        ballast.write_in_place(os.fspath(home / layout.OWN))
    except OSError as error:
        raise LayerstoreError(
            f"{home} cannot be written: {error.strerror}.",
            hint="A store needs a home that it can write to, as root.",
        ) from error
    return made


def new_database(home: Path, about: description.Description, first: e.Event) -> None:
    """A database with one event, whose first open compares it with the tree.

    It appears whole, or not at all; what stood in its place goes to quarantine.
    """
    _set_aside(home)
    path = home / layout.DATABASE
    fresh = path.with_name(access.NEW_DATABASE)
    for suffix in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    kind, data = codec.encode(first)
    engine.create(
        os.fspath(fresh),
        revision=sql.REVISION,
        meta={"store_id": about.store_id, place.COMPARE: "needed"},
        first={
            "epoch": about.epoch,
            "operation": None,
            "owner": "",
            "boot_id": opening.boot_id(),
            "at": opening.now(),
            "kind": kind,
            "layer": None,
            "data": data,
        },
        after_seq=about.high_water,
    )
    fresh.rename(path)
    durable.sync_directory(os.fspath(path.parent))


def complete(home: Path) -> None:
    """Make what a store needs besides its database, in the home of an index that becomes one.

    Raises NotAStoresPlace, CannotCarryOverlay.
    """
    _make_own(home)
    _refuse_other_mounts(home)
    if namespaces.in_user_namespace():
        _mark_user_xattrs(home)
    opening.probe_home(home, insist=True)
    ballast.restore(os.fspath(home))


def rebuild(home: Path, *, timeout: float) -> list[m.Settled]:
    """Set the database aside and begin a new journal from the tree, which is not touched."""
    adoption.refuse(home)
    if not _has_own(home):
        if not (home / layout.LINKS).is_dir():
            description.read(home)  # raises NoStore
        _refuse_foreign(home)
    opening.check_rights("A store", home)
    lost = not (home / layout.STORE_FILE).exists()
    _make_own(home)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        restoring.finish(home)
        # Whether it was made in a user namespace is lost too: whose the links are tells.
        owner = (home / layout.LINKS).stat().st_uid
        if lost and (namespaces.in_user_namespace() or owner != 0):
            _mark_user_xattrs(home)
        about = _description_anew(home)
        copies.refuse_copy(home, about)
        new_database(home, about, e.StoreRebuilt(about.store_id, "asked for"))
        description.write(home, about)
        (home / layout.SUSPECT).unlink(missing_ok=True)
    opened = opening.open_store(home, timeout=timeout, durability=m.Durability.FULL)
    opened.close()
    return opened.settled


def adopt(home: Path, this_is: str, *, timeout: float) -> list[m.Settled]:
    """Tell a copy what it is: a store of its own from now on, or the store itself, which moved."""
    if this_is not in ("copy", "move"):
        raise InvalidArgument(f"This home is a 'copy' or a 'move', not {this_is!r}.")
    adoption.refuse(home)
    about = description.read(home)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        restoring.finish(home)
        if this_is == "copy":
            copies.check_copy(home)
        else:
            copies.check_move(home)
        if not copies.is_usable(home):
            new_database(home, about, e.StoreRebuilt(about.store_id, "the copy was not whole"))
        if this_is == "copy":
            names = {"store_id": os.urandom(16).hex(), "epoch": description.new_epoch()}
            copies.begin_another(home, **names)
        else:
            copies.carry_on(home)
    opened = opening.open_store(home, timeout=timeout, durability=m.Durability.FULL)
    opened.close()
    return opened.settled


def restore(home: Path, source: Path, *, timeout: float) -> list[m.Settled]:
    """Put a copy of the database in place, and compare it with the tree, which is not touched."""
    description.read(home)
    adoption.refuse(home)
    restoring.restore(home, source, timeout=timeout)
    opened = opening.open_store(home, timeout=timeout, durability=m.Durability.FULL)
    opened.close()
    return opened.settled


def _description_anew(home: Path) -> description.Description:
    """The same store in a new epoch; a new one where its description is lost too."""
    try:
        return attrs.evolve(description.read(home), epoch=description.new_epoch())
    except LayerstoreError:
        return description.new(m.DEFAULT_DEPTH)


def _set_aside(home: Path) -> None:
    """Move database, WAL and archives into quarantine: they are never deleted.

    Database first: as long as it is not gone, its archives are where it looks for them.
    """
    aside = home / layout.QUARANTINE / recovery.new_name()
    names = [layout.DATABASE + suffix for suffix in ("", "-wal", "-shm")]
    for path in (
        home / name for name in (*names, layout.REWRITTEN, layout.ARCHIVES, layout.MANIFESTS)
    ):
        if path.exists():
            aside.mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
            path.rename(aside / path.name)
    if aside.exists():
        note = (
            "The database that 'layerstore db rebuild' replaced, with the archives of its older "
            "events.\nDelete it when it is not needed.\n"
        )
        durable.write_file(os.fspath(aside / "NOTE"), note, mode=0o600, synced=False)
