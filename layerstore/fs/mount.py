"""Owns the mounting and unmounting of overlays; it must not decide what is mounted, or
remember it.

Three ways to say the same mount to the kernel, in order of preference:

- ``new``: fsopen and one ``lowerdir+`` per layer (Linux 6.7): no limit but the kernel's 500 layers,
  and the kernel says what is wrong. Each value is a C string of at most 255 bytes, so in a long
  home the paths are said relative to it. (Descriptors would do as well, but only from Linux 6.13
  on.)
- ``absolute``: mount(2) with everything in one page.
- ``relative``: the same with paths relative to the home, as Docker does it: ``l/LINK`` is short, so
  128 layers fit.

``lowerdir+`` takes its path as it stands. ``upperdir`` and ``workdir`` unescape backslashes even in
the new interface.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Literal

import attrs

from layerstore.fs import syscalls
from layerstore.values import value

Style = Literal["new", "absolute", "relative"]
STYLES: tuple[Style, ...] = ("new", "absolute", "relative")

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
_HANDLED = syscalls.sigset(signal.valid_signals() - _FAULTS)
_DATA_LIMIT = os.sysconf("SC_PAGE_SIZE") - 1
_VALUE_LIMIT = 255
# Docker reads these trees too, and a redirect, a metacopy or an index in a layer does not survive a
# diff.
_EXPLICIT = ("index", "metacopy", "redirect_dir")
_PARAMETERS = "/sys/module/overlay/parameters"


class Unmounted(enum.StrEnum):
    """How an unmount ended; after ``DETACHED`` somebody still uses the file system, and it still
    writes.
    """

    NOT_MOUNTED = "not mounted"
    CLEAN = "clean"
    DETACHED = "detached"


@value
@attrs.frozen(repr=False, eq=False)
class OverlayOptions:
    """One overlay mount: absolute lowers, nearest first; without ``upper`` and ``work`` it is
    read-only. ``userxattr``: opaque marks are ``user.overlay.opaque`` (Linux 5.11), the only ones
    that can be set in a user namespace.
    """

    lowers: tuple[str, ...]
    upper: str | None
    work: str | None
    label: str = ""
    userxattr: bool = False
    extra: tuple[tuple[str, str], ...] = ()

    def __attrs_post_init__(self) -> None:
        # An empty component would mount the current directory: in the relative style, the whole
        # store.
        if not self.lowers or not all(os.path.isabs(lower) for lower in self.lowers):
            raise ValueError("an overlay needs lower directories, each with an absolute path")
        if (self.upper is None) != (self.work is None):
            raise ValueError("an overlay has an upper and a work directory, or neither")
        if not all(os.path.isabs(path) for path in (self.upper, self.work) if path is not None):
            raise ValueError("the upper and work directories need absolute paths")
        if '"' in self.label:
            raise ValueError(f"a mount label cannot contain a quote: {self.label!r}")


class Unusable(Exception):
    """This style cannot say this mount on this kernel; the next one may."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def overlay_parameters() -> dict[str, str]:
    """The parameters of the overlay module; empty as long as the module is not loaded."""
    return dict(_parameters()) if os.path.isdir(_PARAMETERS) else {}


@functools.cache
def _parameters() -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for name in sorted(os.listdir(_PARAMETERS)):
        with open(f"{_PARAMETERS}/{name}", encoding="ascii") as file:
            found.append((name, file.read().strip()))
    return tuple(found)


@functools.cache
def has_lowerdir_plus() -> bool:
    """Whether this kernel's overlay takes ``lowerdir+``; OSError where even asking is forbidden."""
    try:
        context = syscalls.fsopen("overlay", syscalls.FSOPEN_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    try:
        # Before Linux 6.5 any text was taken here and refused much later, when the file system was
        # created.
        if _takes(context, "layerstore-no-such-option", "x"):
            return False
        return _takes(context, "lowerdir+", "/")
    finally:
        os.close(context)


def _takes(context: int, key: str, value: str) -> bool:
    try:
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value, 0)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def mount_overlay(
    target: str, options: OverlayOptions, *, home: str, styles: tuple[Style, ...] = STYLES
) -> Style:
    """Mount an overlay at ``target`` in the first of ``styles`` that can say it; that style is
    returned.

    ``home`` is what relative paths are relative to. Only where the kernel lacks the interface, or
    the options do not fit in it, is the next style tried; every other failure is an OSError with
    the kernel's own words where it has any. E2BIG: no style could hold the options.
    """
    mounters = {"new": _mount_new, "absolute": _mount_absolute, "relative": _mount_relative}
    code, reasons = errno.ENOSYS, []
    for style in styles:
        try:
            mounters[style](target, options, home)
        except Unusable as reason:
            reasons.append(f"{style}: {reason}")
            code = reason.code
        else:
            return style
    raise OSError(code, f"cannot mount the overlay ({'; '.join(reasons)})", target)


def _mount_new(target: str, options: OverlayOptions, home: str) -> None:
    attributes = syscalls.MOUNT_ATTR_RDONLY if options.upper is None else 0

    def attach(context: int) -> None:
        mounted = syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, attributes)
        try:
            flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
            syscalls.move_mount(mounted, "", syscalls.AT_FDCWD, os.path.abspath(target), flags)
        finally:
            os.close(mounted)

    configured(target, options, home, attach)


def configured(target: str, options: OverlayOptions, home: str, use: Callable[[int], None]) -> None:
    """Create the file system in the new interface and pass its context to ``use``."""
    settings = _settings(options, None)
    try:
        usable = has_lowerdir_plus()
    except OSError as error:
        raise _failed(error, target, settings, []) from error
    if not usable:
        raise Unusable(errno.ENOSYS, "this kernel lacks it")
    if _too_long(settings):
        settings = _settings(options, home)
        if _too_long(settings):
            raise Unusable(errno.E2BIG, f"a value is longer than {_VALUE_LIMIT} bytes")
        _run_in(home, lambda: _configure(target, settings, use))
    else:
        _uninterrupted(lambda: _configure(target, settings, use))


def _uninterrupted(work: Callable[[], None]) -> None:
    """Do without the signals whose handlers may raise.

    A descriptor that is lost between two lines would keep the file system, and so its upper, in use
    for the life of the process.
    """
    before = syscalls.pthread_sigmask(signal.SIG_BLOCK, syscalls.sigset(()))
    try:
        syscalls.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        work()
    finally:
        syscalls.pthread_sigmask(signal.SIG_SETMASK, before)


def _settings(options: OverlayOptions, base: str | None) -> list[tuple[str, str]]:
    settings = [("source", "overlay")]
    settings += [("lowerdir+", _seen_from(base, lower)) for lower in options.lowers]
    if options.upper is not None and options.work is not None:
        for key, path in (("upperdir", options.upper), ("workdir", options.work)):
            settings.append((key, _seen_from(base, path).replace("\\", "\\\\")))
    settings += _flags(options)
    if options.label:
        settings.append(("context", options.label))
    return settings


def _too_long(settings: list[tuple[str, str]]) -> bool:
    return any(len(os.fsencode(value)) > _VALUE_LIMIT for _, value in settings)


def _configure(target: str, settings: list[tuple[str, str]], use: Callable[[int], None]) -> None:
    context = syscalls.fsopen("overlay", syscalls.FSOPEN_CLOEXEC)
    try:
        for key, value in settings:
            if value:
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value, 0)
            else:
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, key, None, 0)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None, 0)
        use(context)
    except OSError as error:
        raise _failed(error, target, settings, _messages(context)) from error
    finally:
        os.close(context)


def _failed(
    error: OSError, target: str, settings: list[tuple[str, str]], said: list[str]
) -> OSError:
    code = error.errno or errno.EIO
    lowers = sum(1 for key, _ in settings if key.startswith("lowerdir"))
    words = f"cannot mount an overlay of {lowers} lower directories: {os.strerror(code)}"
    if said:
        words += f" (the kernel says: {'; '.join(said)})"
    return OSError(code, words, target)


def _messages(context: int) -> list[str]:
    """What the kernel has to say: one message per read, prefixed with its severity, ENODATA at the
    end.
    """
    said: list[str] = []
    try:
        while True:
            text = os.read(context, 8192).decode(errors="replace")
            said.append(text.strip().removeprefix("e ").removeprefix("w ").removeprefix("i "))
    except OSError:
        return said


def _mount_absolute(target: str, options: OverlayOptions, home: str) -> None:
    del home
    _mount_classic(target, options, None)


def _mount_relative(target: str, options: OverlayOptions, home: str) -> None:
    place = os.path.abspath(target)
    _run_in(home, lambda: _mount_classic(place, options, home))


def _mount_classic(target: str, options: OverlayOptions, base: str | None) -> None:
    parts = ["lowerdir=" + ":".join(_escape(_seen_from(base, path)) for path in options.lowers)]
    if options.upper is not None and options.work is not None:
        parts.append("upperdir=" + _escape(_seen_from(base, options.upper)))
        parts.append("workdir=" + _escape(_seen_from(base, options.work)))
    parts += [f"{key}={value}" if value else key for key, value in _flags(options)]
    if options.label:
        parts.append(f'context="{options.label}"')
    data = ",".join(parts)
    if len(os.fsencode(data)) > _DATA_LIMIT:
        # The kernel would silently cut the text, and mount fewer layers.
        words = f"the options take more than {_DATA_LIMIT} bytes"
        if options.label and base is not None:
            words += f": mount label too large {len(os.fsencode(options.label))}"
        raise Unusable(errno.E2BIG, words)
    try:
        flags = syscalls.MS_RDONLY if options.upper is None else 0
        syscalls.mount("overlay", target, "overlay", flags, data)
    except OSError as error:
        raise _failed(error, target, [("lowerdir", path) for path in options.lowers], []) from error


def _flags(options: OverlayOptions) -> list[tuple[str, str]]:
    """What is said explicitly, as far as this kernel knows it; ``extra`` wins."""
    chosen = {name: "off" for name in _EXPLICIT if name in overlay_parameters()}
    if options.userxattr:
        # `off` means `follow` where the module's parameter redirect_always_follow is set, and then
        # the two are refused together.
        if "redirect_dir" in chosen:
            chosen["redirect_dir"] = "nofollow"
        chosen["userxattr"] = ""
    chosen.update(options.extra)
    return list(chosen.items())


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _seen_from(base: str | None, path: str) -> str:
    """``path`` relative to ``base`` if it is below it; as text, because ``l/LINK`` must stay a
    link.
    """
    if base is None:
        return path
    prefix = base.rstrip("/") + "/"
    return path.removeprefix(prefix) or path


def _run_in(directory: str, work: Callable[[], None]) -> None:
    """Run ``work`` with another current directory, in a thread that no longer shares it with the
    process.
    """
    failures: list[BaseException] = []

    def body() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            os.chdir(directory)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=body, name="layerstore-mount")
    thread.start()
    try:
        thread.join()
    except BaseException:
        # An interrupted caller asks next what is mounted; the answer must not change behind its
        # back.
        thread.join()
        raise
    if failures:
        raise failures[0]


def unmount(target: str, *, wait: float = 0.1) -> Unmounted:
    """Take the topmost mount off ``target``: cleanly if that is possible within ``wait`` seconds,
    else lazily.

    Of mounts stacked on one target only one is taken off per call. A link at ``target`` is not
    followed.
    """
    deadline = time.monotonic() + wait
    pause = 0.001
    flags, outcome = syscalls.UMOUNT_NOFOLLOW, Unmounted.CLEAN
    while True:
        try:
            syscalls.umount2(target, flags)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return Unmounted.NOT_MOUNTED
            if error.errno != errno.EBUSY or flags & syscalls.MNT_DETACH:
                raise
        else:
            return outcome
        left = deadline - time.monotonic()
        if left > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.02)
        else:
            flags, outcome = flags | syscalls.MNT_DETACH, Unmounted.DETACHED
