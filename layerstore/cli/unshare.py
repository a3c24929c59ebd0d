"""Owns `unshare`: a command as the root of a user namespace; it must not know what the command does."""

from __future__ import annotations

import os
import signal

import click

from layerstore import config
from layerstore.cli import exits
from layerstore.cli.app import App, Command, pass_app
from layerstore.errors import CannotCarryOverlay


@click.command(
    "unshare",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_app
@click.pass_context
def unshare_command(ctx: click.Context, app: App, command: tuple[str, ...]) -> None:
    """Run a command where an ordinary user may mount.

    The command, or your shell where none is given, runs as root of a user namespace, with a mount
    namespace of its own: what is mounted there is seen there only and ends with the last process.
    Your own id is 0 there, and the ids that /etc/subuid and /etc/subgid give you follow from 1 on;
    files of those ids are yours to see to in there only. Without such ids there is one id.

    It replaces this process: the directory, the exit status and signals are those of the command.
    Root itself needs no namespace, and then the command runs as it is.
    """
    words = command or (os.environ.get("SHELL") or "/bin/sh",)
    if os.geteuid() == 0:
        app.out.note("layerstore: this is root already; the command runs as it is")
    else:
        enter(app)
    _replace_with(ctx, app, words)


def enter(app: App) -> None:
    """Move this process into namespaces of its own, as their root, and say with which ids."""
    from layerstore.fs import unshare

    uid = os.geteuid()
    try:
        found = unshare.enter()
    except OSError as error:
        raise CannotCarryOverlay(
            f"No user namespace can be made: {unshare.why_refused(error)}.",
            hint="'layerstore doctor' says more. As root, no user namespace is needed.",
        ) from error
    os.environ[config.ROOTLESS_UID] = str(uid)
    if found.why_single:
        app.out.note(f"layerstore: only one id is mapped, because {found.why_single}")


def _replace_with(ctx: click.Context, app: App, words: tuple[str, ...]) -> None:
    """Become the command; where there is none, end as a shell does."""
    # Python ignores these, and what is ignored stays so in the command.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        error, code = f"There is no command {words[0]}.", exits.NO_COMMAND
    except OSError as failure:
        error, code = f"{words[0]} cannot be run: {failure.strerror}.", exits.NOT_EXECUTABLE
    app.out.error(error, code="not-run", exit_code=code)
    ctx.exit(code)
