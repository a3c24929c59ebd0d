"""Owns the command `audit`: how what was found is told; what is found, `layerstore.audit` knows."""

from __future__ import annotations

import os
import sys
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import click

from layerstore.cli import exits
from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.output import many, size
from layerstore.errors import LayerstoreError
from layerstore.model import Finding, Severity

if TYPE_CHECKING:
    from types import TracebackType

    from layerstore.audit import Report

_SHOWN: Final = 10
"""Findings of one code that are printed without -v."""
_REPAIRS: Final = "mends what can be derived, and sets aside the rest; --plan says how"
_SOON: Final = 1.0
"""Seconds after which somebody who watches wants to see that it goes on."""
_WORDS: Final = {
    Severity.DAMAGE: "Damage: something does not work, or will not",
    Severity.LEFTOVER: "Leftovers: nobody needs them any more",
    Severity.DRIFT: "Drift: records and reality disagree",
    Severity.NOTE: "Notes: nothing needs to be done",
}


@click.command("audit", cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=str))
@click.option("--archives", is_flag=True, help="Read and fold the journal's archives whole, too.")
@click.option("--content", is_flag=True, help="Read all files, and compare them with manifests.")
@click.option(
    "--layer",
    "layers",
    metavar="ID",
    multiple=True,
    help="With --content, read only this layer's files; may be repeated.",
    **LAYER,
)
@click.option(
    "--docker-root",
    metavar="DIR",
    type=click.Path(path_type=str),
    help="Compare with the records of the dockerd whose data root this is.  [default: found beside a "
    "store below docker_roots]",
)
@pass_app
@click.pass_context
def audit_command(
    ctx: click.Context,
    app: App,
    path: str | None,
    archives: bool,
    content: bool,
    layers: tuple[str, ...],
    docker_root: str | None,
) -> None:
    """Compare journal, index, tree and mount table. Changes nothing.

    PATH is a store, or any overlay2 tree without one: Docker's data-root/overlay2, podman's
    graph-root/overlay. It may be in use, or on a medium that cannot be written.

    The exit code is made of the bits of fsck(8): 0 if everything agrees, 4 if something was found,
    8 if the audit could not run. Notes, which need no repair, are no findings in this sense.
    """
    from layerstore.audit import VERSION, audit

    home = path if path is not None else app.settings.home
    try:
        with Bar(app) as bar:
            report = audit(
                home,
                archives=archives,
                content=content or bool(layers),
                only=_resolved(home, layers),
                any_tree=path is not None,
                docker_root=docker_root or _docker_root(app, home),
                progress=bar.told,
            )
    except LayerstoreError as error:
        app.fail(error, exit_code=exits.NOT_AUDITED)
        ctx.exit(exits.NOT_AUDITED)
    except OSError as error:
        app.out.error(str(error), code="not-audited", exit_code=exits.NOT_AUDITED)
        ctx.exit(exits.NOT_AUDITED)
    if app.out.json:
        app.out.document(
            audit=VERSION,
            home=report.home,
            kind=report.kind,
            clean=report.clean,
            lost_metadata=report.lost_metadata,
            summary=_counts(report),
            findings=report.findings,
            checked=report.checked,
        )
    else:
        _tell(app, report)
    ctx.exit(0 if report.clean else exits.FINDINGS)


def _resolved(home: str | os.PathLike[str], layers: tuple[str, ...]) -> list[str]:
    """The layers that are meant, where any are named."""
    if not layers:
        return []
    from layerstore.reader import Reader

    with Reader.open(home) as reader:
        return [resolve(reader, layer) for layer in layers]


def _docker_root(app: App, home: str | os.PathLike[str]) -> str | None:
    """Where the settings let a dockerd have its home, and it has its records beside it."""
    from layerstore.audit.dockerd import data_root

    real = os.path.realpath(home)
    below = any(real.startswith(f"{os.path.realpath(r)}/") for r in app.settings.docker_roots)
    return data_root(real) if below else None


def _counts(report: Report) -> dict[str, int]:
    return {
        severity.value: sum(item.severity is severity for item in report.findings)
        for severity in Severity
    }


# --- for a person ---------------------------------------------------------------------------------


def _tell(app: App, report: Report) -> None:
    """The worst first: what it is, whom it hits, and what to do."""
    from layerstore.audit.codes import CODES

    bad = [item for item in report.findings if item.severity is not Severity.NOTE]
    if report.lost_metadata:
        app.out.line("THE RECORDS LOOK LOST, NOT THE LAYERS. Remove nothing before this is clear.")
        app.out.line()
    for severity in Severity:
        found = [item for item in report.findings if item.severity is severity]
        if not found:
            continue
        app.out.line(app.out.style(_WORDS[severity], bold=True))
        found.sort(key=lambda item: list(CODES).index(item.code))
        for code, items in groupby(found, key=lambda item: item.code):
            _tell_code(app, code, list(items))
        app.out.line()
    if bad:
        _tell_next(app, report, bad)
    counts = ", ".join(f"{count} {what}" for what, count in report.checked.items())
    verdict = many(len(bad), "finding") if bad else "clean"
    app.out.note(f"{verdict[0].upper()}{verdict[1:]}. Checked: {counts}.")


def _tell_code(app: App, code: str, items: list[Finding]) -> None:
    from layerstore.audit.codes import CODES
    from layerstore.cli.output import clean

    app.out.line(f"  {code} ({len(items)}): {CODES[code].meaning}")
    shown = items if app.out.verbose else items[:_SHOWN]
    for item in shown:
        more = []
        if item.dependents:
            names = ", ".join(item.depends[:3])
            dots = ", …" if item.dependents > 3 else ""
            more.append(
                f"{many(item.dependents, 'other depends', 'others depend')} on it: {names}{dots}"
            )
        if item.bytes is not None:
            more.append(size(item.bytes))
        app.out.line(clean(f"    {item.message}" + (f" ({'; '.join(more)})" if more else "")))
    if len(items) > len(shown):
        app.out.line(f"    … and {len(items) - len(shown)} more (-v lists them)")


def _tell_next(app: App, report: Report, bad: list[Finding]) -> None:
    """What is broken, in numbers, and which commands help."""
    from layerstore.audit.codes import REPAIRS

    damaged = {item.layer for item in bad if item.severity is Severity.DAMAGE and item.layer}
    room = sum(item.bytes or 0 for item in bad)
    if damaged:
        hit = max(item.dependents for item in bad if item.layer in damaged)
        words = f"{many(len(damaged), 'layer is', 'layers are')} damaged"
        app.out.line(words + (f"; up to {hit} others depend on one of them." if hit else "."))
    if room:
        app.out.line(f"{size(room)} are taken by what nothing needs.")
    names = dict.fromkeys(name for item in bad for name in item.repairs)
    if report.lost_metadata:
        names = {name: None for name in names if not REPAIRS[name].destroys}
    if report.kind == "layerstore":
        commands = {REPAIRS[name].command: REPAIRS[name].does for name in reversed(names)}
        for command, does in reversed(commands.items()):
            said = _REPAIRS if command == "layerstore repair" else does
            app.out.line(f"'{command}' {said}.")


class Bar:
    """A progress bar on a terminal, for runs that take long enough to wonder."""

    def __init__(self, app: App) -> None:
        self._watched = not (app.out.json or app.out.quiet) and sys.stderr.isatty()
        self._since = time.monotonic()
        self._what = ""
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def told(self, what: str, done: int, of: int) -> None:
        """The audit is so far with this."""
        if not self._watched or time.monotonic() - self._since < _SOON:
            return
        if what != self._what:
            self._end()
            self._what = what
            self._bar = click.progressbar(length=max(of, 1), label=what, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
