"""Owns the questions about the machine: kernel, user, limits, SQLite; nothing about a directory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import Final

from layerstore.db import engine
from layerstore.doctor.checks import Check, Gravity
from layerstore.fs import namespaces, unshare

FEW_FILES: Final = 1024
FEW_MOUNTS_LEFT: Final = 0.1
"""Of fs.mount-max."""


def examine(uid: int) -> Iterator[Check]:
    yield Check("kernel", Gravity.FINE, os.uname().release)
    yield _overlay()
    yield _user(uid)
    if uid:
        yield _subordinate_ids(uid)
    yield _sqlite()
    yield _open_files()
    yield from _limits(rootless=bool(uid))
    yield _mount_count()
    yield _namespace()


def _overlay() -> Check:
    """The list of file systems, which a module joins only when it is loaded."""
    if "overlay" in _text("/proc/filesystems").split():
        return Check("overlay module", Gravity.FINE, "loaded, or built in")
    return Check(
        "overlay module",
        Gravity.WARNING,
        "not loaded",
        "Load it: 'modprobe overlay', and for every boot a line 'overlay' in "
        "/etc/modules-load.d/overlay.conf. A container cannot load it itself.",
    )


def _user(uid: int) -> Check:
    inside = namespaces.in_user_namespace()
    if not namespaces.may_mount():
        return Check(
            "user",
            Gravity.PROBLEM,
            f"uid {os.geteuid()}, which may not mount",
            "Run as root, or behind 'layerstore unshare'. In a container, mounting has to be "
            "permitted (CAP_SYS_ADMIN).",
        )
    if not inside:
        return Check("user", Gravity.FINE, f"uid {os.geteuid()}, which may mount")
    rows = unshare.current_maps().uids
    count = sum(row[2] for row in rows)
    who = f"user {uid}" if uid else "a user"
    return Check("user", Gravity.FINE, f"root of a user namespace of {who}; ids: {count}")


def _subordinate_ids(uid: int) -> Check:
    """Of an ordinary user: without them a layer can keep files of one owner only."""
    found = unshare.mapping(uid, uid)
    name = "subordinate ids"
    if not found.why_single:
        count = sum(row[2] for row in found.uids[1:])
        if len(unshare.current_maps().uids) == 1:
            return Check(
                name,
                Gravity.WARNING,
                f"{count} in /etc/subuid and /etc/subgid, but not mapped here",
                "'layerstore unshare true' says why. newuidmap and newgidmap have to be setuid.",
            )
        return Check(name, Gravity.FINE, f"{count} of /etc/subuid and /etc/subgid")
    return Check(
        name,
        Gravity.WARNING,
        f"none: {found.why_single}",
        "Layers can hold files of one owner only. Install the package uidmap, and as root: "
        f"'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME' for user {uid}.",
    )


def _sqlite() -> Check:
    value = f"{engine.SQLITE_VERSION} by {engine.DRIVER}"
    if not engine.ONE_WRITER_NEEDED:
        return Check("SQLite", Gravity.FINE, value)
    return Check(
        "SQLite",
        Gravity.NOTE,
        f"{value}, with the WAL-reset race (fixed in 3.51.3)",
        "Writers take turns by a lock file, so nothing is lost. 'pip install pysqlite3' brings a "
        "newer SQLite and is used where it is there.",
    )


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return Check("open files", Gravity.FINE, f"at most {soft}")
    return Check(
        "open files",
        Gravity.WARNING,
        f"at most {soft} (RLIMIT_NOFILE), {hard} if raised",
        f"Raise it to {FEW_FILES} or more: 'ulimit -n', or LimitNOFILE= of a service.",
    )


def _limits(*, rootless: bool) -> Iterator[Check]:
    """Namespaces are for the demo, for servers in containers, and for ordinary users."""
    for name in ("max_mnt_namespaces", "max_user_namespaces"):
        value = _number(f"/proc/sys/user/{name}")
        if value is None:
            continue
        if value > 0:
            yield Check(f"user.{name}", Gravity.FINE, str(value))
        else:
            grave = rootless or name == "max_mnt_namespaces"
            yield Check(
                f"user.{name}",
                Gravity.WARNING if grave else Gravity.NOTE,
                "0: none can be made",
                f"Ordinary users cannot use layerstore here until 'sysctl user.{name}=10000'.",
            )
    for name, forbidden in (
        ("kernel/unprivileged_userns_clone", 0),
        ("kernel/apparmor_restrict_unprivileged_userns", 1),
    ):
        if _number(f"/proc/sys/{name}") == forbidden:
            sysctl = name.replace("/", ".")
            yield Check(
                sysctl,
                Gravity.WARNING if rootless else Gravity.NOTE,
                f"{forbidden}: ordinary users have no user namespaces",
                f"'sysctl {sysctl}={1 - forbidden}' permits 'layerstore unshare'. Root needs none.",
            )


def _mount_count() -> Check:
    most = _number("/proc/sys/fs/mount-max")
    count = len(_text("/proc/self/mountinfo").splitlines())
    if most is None or count < most * (1 - FEW_MOUNTS_LEFT):
        return Check("mounts", Gravity.FINE, f"{count} of at most {most or 'unknown'}")
    return Check(
        "mounts",
        Gravity.WARNING,
        f"{count} of at most {most} (fs.mount-max)",
        f"Each mounted layer is one. 'sysctl fs.mount-max={2 * most}' raises the limit.",
    )


def _namespace() -> Check:
    """Whether others see what is mounted here; a service with PrivateMounts= does not show it."""
    name = "mount namespace"
    try:
        alone = os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt")
    except OSError:
        return Check(name, Gravity.FINE, "whether it is that of the machine cannot be seen")
    if not alone:
        return Check(name, Gravity.FINE, "that of the machine")
    return Check(
        name,
        Gravity.NOTE,
        "one of its own",
        "What is mounted here is not seen outside. A service that mounts for others must not have "
        "PrivateMounts=, PrivateTmp=, ProtectSystem= or MountFlags=slave.",
    )


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
