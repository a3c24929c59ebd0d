"""Owns `demo`: the place where it happens, and how it is told. What happens is in `demo_scenes`.

Everything that the demo claims it also checks; a claim that is not true makes it fail.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click

from layerstore.cli import exits
from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import Output, clean
from layerstore.errors import CannotCarryOverlay, InvalidOption


@attrs.define
class Story:
    """What is said, and which claims were checked."""

    out: Output
    checks: list[tuple[str, bool]] = attrs.field(factory=list)
    facts: dict[str, Any] = attrs.field(factory=dict)
    """For the JSON document."""

    @property
    def true(self) -> bool:
        return all(held for _, held in self.checks)

    def scene(self, title: str) -> None:
        self._tell("")
        self._tell(self.out.style(title, bold=True))

    def say(self, text: str) -> None:
        self._tell(f"  {text}")

    def show(self, lines: Iterable[str]) -> None:
        """What a program printed, or what a directory holds."""
        for line in lines:
            self._tell(self.out.style(f"    {clean(line)}", dim=True))

    def check(self, claim: str, held: bool) -> None:
        """State something, having looked whether it is so."""
        self.checks.append((claim, held))
        mark, color = ("ok ", "green") if held else ("NOT TRUE ", "red")
        self._tell(f"  {self.out.style(mark, fg=color, bold=True)} {claim}")

    def _tell(self, text: str) -> None:
        if not self.out.json and not self.out.quiet:
            self.out.line(text)


@click.command("demo", cls=Command)
@click.option("--keep", is_flag=True, help="Leave the store, to look around in it.")
@click.option(
    "--home",
    metavar="DIR",
    help="Where to make the store; must be missing or empty.  [default: a temporary directory]",
)
@click.option(
    "--write-image",
    metavar="FILE",
    help="Only write the image that the demo makes, to import it yourself.",
)
@click.argument("archive", required=False)
@pass_app
def demo_command(
    app: App, keep: bool, home: str | None, write_image: str | None, archive: str | None
) -> None:
    """See it work: an image, mounts, a kill, and recovery.

    Makes a store in a temporary directory, and an image of this machine's own files: a shell and this
    Python, with what they need. Imports it, stacks layers on it, and runs a program inside the mount.
    With ARCHIVE, what 'docker save' or 'skopeo copy' wrote, it imports that image, too, and runs its
    shell. Kills one process with SIGKILL in the
    middle of creating a layer and another one while it has a layer mounted, opens the store again,
    and looks at what recovery did. Every claim is checked; the exit code is 1 if one was not true.

    It mounts in a namespace of its own, where nobody else sees it; an ordinary user's is made like
    that of 'layerstore unshare'. It takes some seconds and some 200 MB, and leaves nothing behind
    without --keep.
    """
    from layerstore.cli import demo_image, demo_scenes

    if write_image is not None:
        with open(write_image, "xb") as file:
            demo_image.write_image(file)
        return
    rootless = _enter_namespace(app)
    story = Story(app.out)
    with _place(home if home is not None else app.home, keep=keep) as place:
        demo_scenes.play(place, story, keep=keep, archive=archive)
    wrong = [claim for claim, held in story.checks if not held]
    if app.out.json:
        app.out.document(
            ok=story.true,
            home=place if keep else None,
            checks=[{"claim": claim, "true": held} for claim, held in story.checks],
            **story.facts,
        )
    else:
        story.scene(
            f"{len(wrong)} of {len(story.checks)} claims were not true."
            if wrong
            else f"All {len(story.checks)} claims were checked and are true."
        )
        if keep:
            story.say("The store is kept. Look around in it:")
            story.show(f"layerstore --home {place} {word}" for word in ("tree", "log", "status"))
            if rootless:
                story.say("Commands that change something go behind 'layerstore unshare'.")
        else:
            story.say("Everything was cleaned up. --keep leaves the store to look around in.")
    if wrong:
        raise click.exceptions.Exit(exits.FAILED)


def _enter_namespace(app: App) -> bool:
    """Go where mounts are seen by this process and its children only; True for an ordinary user."""
    from layerstore.fs import syscalls

    if os.geteuid() != 0:
        from layerstore.cli import unshare

        unshare.enter(app)
        return True
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    except OSError as error:
        raise CannotCarryOverlay(
            f"This process may not make a mount namespace of its own: {error.strerror}.",
            hint="In a container, mounting has to be permitted, as with 'docker run --privileged'.",
        ) from error
    return False


@contextmanager
def _place(wanted: str | None, *, keep: bool) -> Iterator[Path]:
    """An empty directory for the store that can carry overlays; it goes at the end unless kept."""
    from layerstore.fs import syscalls

    if wanted is not None:
        home = Path(wanted).absolute()
        if home.exists() and (not home.is_dir() or any(home.iterdir())):
            raise InvalidOption(
                f"{home} is not empty.", hint="The demo makes a store of its own and removes it."
            )
        with _cleared(home, keep=keep, existed=home.exists()):
            yield home
        return
    top = Path(tempfile.mkdtemp(prefix="layerstore-demo-"))
    mounted = False
    try:
        mounted = _make_able(top, keep=keep)
        with _cleared(top / "store", keep=keep, existed=False):
            yield top / "store"
    finally:
        if mounted:
            syscalls.umount2(os.fspath(top), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        if not keep or not any(top.iterdir()):
            shutil.rmtree(top)


@contextmanager
def _cleared(home: Path, *, keep: bool, existed: bool) -> Iterator[None]:
    """Remove what is at `home` afterwards, mounts first; the directory stays where it `existed`."""
    from layerstore.fs import mountinfo, syscalls

    try:
        yield
    finally:
        # A demo that was broken off may have left something mounted.
        for entry in reversed(mountinfo.mounts_below(os.fspath(home))):
            syscalls.umount2(entry.mount_point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        if not keep and home.exists():
            for path in [*home.iterdir()]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                home.rmdir()


def _make_able(top: Path, *, keep: bool) -> bool:
    """Put a tmpfs on `top` where its file system cannot carry overlays; whether that was needed.

    In a container, /tmp usually is an overlay itself, and overlays do not stack as uppers.
    """
    from layerstore.fs import probe, syscalls

    problem = probe.probe_home(os.fspath(top), os.fspath(top)).problem
    if problem is None:
        return False
    if keep:
        raise CannotCarryOverlay(
            f"The temporary directory cannot carry the store: {problem}.",
            hint="'layerstore demo --keep --home DIR', with DIR on another file system.",
        )
    syscalls.mount("layerstore-demo", os.fspath(top), "tmpfs", 0, "mode=0700")
    return True
