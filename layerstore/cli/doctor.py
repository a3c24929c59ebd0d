"""Owns `doctor`: how an examination is told; what is looked at is in `layerstore.doctor`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from layerstore import config
from layerstore.cli import exits
from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import clean, many
from layerstore.doctor.checks import Gravity, Health
from layerstore.errors import CannotCarryOverlay, LayerstoreError

_MARKS = {
    Gravity.FINE: ("ok", "green"),
    Gravity.NOTE: ("note", "cyan"),
    Gravity.WARNING: ("warning", "yellow"),
    Gravity.PROBLEM: ("PROBLEM", "red"),
}


@click.command("doctor", cls=Command)
@click.argument("directory", required=False, type=click.Path())
@pass_app
@click.pass_context
def doctor_command(ctx: click.Context, app: App, directory: str | None) -> None:
    """Check the machine and the store, and say what to do.

    Looks at the kernel, this user, limits, SQLite, and the file system: by mounting and locking
    something in a directory of its own, which is removed again. Of a store it changes nothing. With
    DIRECTORY it says whether that could carry a store. An ordinary user is told what works behind
    'layerstore unshare'.

    The exit code is made of the bits of fsck(8): 0 if all is fine, 4 if there are warnings or
    problems, 8 if it could not look. Notes, which need nothing done, do not count.
    """
    home = Path(directory if directory is not None else app.settings.home).resolve()
    try:
        health = _examine(app, home)
    except LayerstoreError as error:
        app.fail(error, exit_code=exits.NOT_AUDITED)
        ctx.exit(exits.NOT_AUDITED)
    except OSError as error:
        app.out.error(str(error), code="not-examined", exit_code=exits.NOT_AUDITED)
        ctx.exit(exits.NOT_AUDITED)
    if app.out.json:
        app.out.document(fine=not health.bad, **_plain(health))
    else:
        _tell(app, health)
    ctx.exit(exits.FINDINGS if health.bad else 0)


def _examine(app: App, home: Path) -> Health:
    from layerstore import doctor
    from layerstore.fs import namespaces

    outside = os.environ.get(config.ROOTLESS_UID, "")
    uid = os.geteuid() or (int(outside) if outside.isdecimal() else 0)
    durability = app.settings.durability.value
    if os.geteuid() != 0 and not namespaces.may_mount():
        from layerstore.cli import unshare

        quiet, app.out.quiet = app.out.quiet, True  # it is among the checks
        with contextlib.suppress(CannotCarryOverlay):  # and so is this
            unshare.enter(app)
        app.out.quiet = quiet
    return doctor.examine(home, durability=durability, uid=uid)


def _plain(health: Health) -> dict[str, object]:
    return {"home": health.home, "is_store": health.is_store, "checks": list(health.checks)}


def _tell(app: App, health: Health) -> None:
    width = max(len(check.name) for check in health.checks)
    for check in health.checks:
        if app.out.quiet and check.state in (Gravity.FINE, Gravity.NOTE):
            continue
        word, color = _MARKS[check.state]
        mark = app.out.style(word.ljust(8), fg=color, bold=check.state is Gravity.PROBLEM)
        app.out.line(f"{mark} {check.name.ljust(width)}  {clean(check.value)}")
        if check.advice:
            app.out.line(f"{'':8} {'':{width}}  -> {clean(check.advice)}")
    verdict = many(len(health.bad), "finding") if health.bad else "all is fine"
    app.out.note(f"{verdict[0].upper()}{verdict[1:]}.")
