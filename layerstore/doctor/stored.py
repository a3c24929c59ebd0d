"""Owns the questions about an existing store, asked read-only; nothing about the file system alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from layerstore.answers import Status
from layerstore.doctor.checks import Check, Gravity
from layerstore.errors import LayerstoreError
from layerstore.fs import files, layout, mountinfo, namespaces
from layerstore.reader import Reader


def is_store(home: Path) -> bool:
    return os.path.lexists(home / layout.STORE_FILE)


def examine(home: Path, *, durability: str) -> Iterator[Check]:
    """What the store says of itself, and what does not fit this process or this machine."""
    yield _file_systems(home)
    yield _marks(home)
    try:
        with Reader.open(home) as reader:
            status = reader.status()
    except (LayerstoreError, OSError) as error:
        hint = error.hint if isinstance(error, LayerstoreError) else "See to the disk."
        yield Check("store", Gravity.PROBLEM, str(error), hint)
        return
    yield Check("store", Gravity.FINE, f"format {status.format}, schema {status.schema}")
    yield _journal_mode(status)
    yield Check("synchronous", Gravity.FINE, status.synchronous)
    yield _durability(durability)
    yield _probes(status)
    yield _layers(status)


def _file_systems(home: Path) -> Check:
    parted = mountinfo.parted(os.fspath(home))
    if not parted:
        return Check("journal and tree", Gravity.FINE, "on one file system")
    return Check(
        "journal and tree",
        Gravity.PROBLEM,
        f"{', '.join(parted)} is another mount than {home}",
        "Layers are renamed out of it, which no mount may part, and a snapshot of one would not "
        "fit the other. Unmount it and move its content into the home.",
    )


def _marks(home: Path) -> Check:
    made_inside = files.uses_user_xattrs(os.fspath(home))
    inside = namespaces.in_user_namespace()
    if made_inside:
        return Check("made", Gravity.FINE, "in a user namespace: mounts use userxattr")
    if not inside:
        return Check(
            "made", Gravity.FINE, "outside of user namespaces: mounts use trusted.overlay.*"
        )
    return Check(
        "made",
        Gravity.PROBLEM,
        "outside of user namespaces, and this process is in one: it cannot mount these layers",
        "Work with it as root outside, or make another store in here.",
    )


def _journal_mode(status: Status) -> Check:
    if status.journal_mode == "wal":
        return Check("journal mode", Gravity.FINE, "wal")
    return Check(
        "journal mode",
        Gravity.PROBLEM,
        f"{status.journal_mode} instead of wal",
        "Something else than layerstore opened the database. The next open that writes sets it.",
    )


def _durability(durability: str) -> Check:
    if durability == "full":
        return Check("durability", Gravity.FINE, "full: what was acknowledged survives a power cut")
    return Check(
        "durability",
        Gravity.NOTE,
        f"{durability}: a power cut may take what was acknowledged",
        "It is a setting (LAYERSTORE_DURABILITY); 'full' is the default.",
    )


def _probes(status: Status) -> Check:
    if not status.probes:
        advice = "The next open that writes finds out again what this machine can do."
        return Check("kept probes", Gravity.NOTE, "none", advice)
    mine = status.probes.get("user_namespace") == namespaces.in_user_namespace()
    kernel = status.probes.get("kernel") == os.uname().release
    if mine and kernel:
        return Check("kept probes", Gravity.FINE, "of this kernel, for this kind of process")
    advice = "The next open that writes makes them anew."
    return Check("kept probes", Gravity.NOTE, "of another kernel or kind of process", advice)


def _layers(status: Status) -> Check:
    value = f"{status.layers}, {status.mounts} mounted, {status.operations} operations in flight"
    if not status.damaged:
        return Check("layers", Gravity.FINE, value)
    return Check(
        "layers",
        Gravity.WARNING,
        f"{value}, {status.damaged} damaged",
        "'layerstore audit' says what is wrong with them.",
    )
