"""Owns the command `repair`: how a plan and its outcome are told; what is done, `layerstore.repair` knows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from layerstore.cli import exits
from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import clean, many, size
from layerstore.errors import InvalidArgument, LayerstoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.repair.forms import Act, Done, Outcome, Plan, Remedy

_SHOWN: Final = 20
"""Acts, or findings that are left, that are printed without -v."""


@click.command("repair", cls=Command)
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--only", multiple=True, metavar="CODE", help="Mend findings of this code only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--undo",
    metavar="OPERATION",
    help="Take back one repair; of one that changed records alone, the number of its event.",
)
@click.option("--empty-quarantine", is_flag=True, help="Remove for good what was set aside.")
@pass_app
@click.pass_context
def repair_command(
    ctx: click.Context,
    app: App,
    only_plan: bool,
    only: tuple[str, ...],
    yes: bool,
    undo: str | None,
    empty_quarantine: bool,
) -> None:
    """Mend what an audit finds. Nothing is removed for good.

    What can be derived is made again: links, the small files, work directories, the index from the
    journal, rows from whole layers. What is not understood is set aside, into .layerstore/quarantine,
    with a note; a layer that something depends on is never moved. Where the records look lost, nothing
    is moved away at all. Each act is in the journal, and --undo takes it back, or says why it stays.

    The exit code is made of the bits of fsck(8): 0 clean, 1 something was repaired, 4 something is
    left, 8 it could not run, 16 usage. With --plan: 0, or 4 if there is anything to be done or left.
    """
    if sum((only_plan or bool(only), undo is not None, empty_quarantine)) > 1:
        raise click.UsageError("--undo and --empty-quarantine go with --yes alone.")
    try:
        if undo is not None:
            code = _undo(app, undo, yes)
        elif empty_quarantine:
            code = _empty(app, yes)
        else:
            code = _repair(app, only, only_plan=only_plan, yes=yes)
    except InvalidArgument:
        raise
    except LayerstoreError as error:
        app.fail(error, exit_code=exits.NOT_AUDITED)
        code = exits.NOT_AUDITED
    except OSError as error:
        app.out.error(str(error), code="not-repaired", exit_code=exits.NOT_AUDITED)
        code = exits.NOT_AUDITED
    ctx.exit(code)


def _repair(app: App, only: tuple[str, ...], *, only_plan: bool, yes: bool) -> int:
    from layerstore.repair.forms import VERSION
    from layerstore.repair.verb import plan_repair

    plan, _ = plan_repair(Path(app.settings.home).resolve(), only=only)
    acts = list(plan.acts())
    if only_plan or not acts:
        if app.out.json:
            _document(app, repair=VERSION, plan=plan, done=(), left=plan.left)
        else:
            _tell_plan(app, plan)
        return exits.FINDINGS if acts or plan.left else 0
    if not app.out.json and not yes:
        _tell_plan(app, plan)
    ask(f"Do {many(len(acts), 'act')}, and what they bring to light?", yes)
    with app.store() as store:
        outcome = store.repair(only=only, told=None if app.out.json else partial(_tell_act, app))
    opened = _by_opening(acts, outcome)
    if app.out.json:
        done = (*opened, *outcome.done)
        _document(app, repair=VERSION, plan=outcome.plan, done=done, left=outcome.left)
    else:
        for item in opened:
            _tell_act(app, item)
        _tell_left(app, outcome.left)
        count = len(opened) + sum(item.outcome == "done" for item in outcome.done)
        app.out.note(f"{many(count, 'act')} done, {many(len(outcome.left), 'finding')} left.")
    repaired = outcome.repaired or bool(opened)
    return exits.REPAIRED * repaired | exits.FINDINGS * bool(outcome.left)


def _by_opening(planned: list[Act], outcome: Outcome) -> list[Done]:
    """What was planned, and done when the store was opened: settling, and a newer schema."""
    from layerstore.repair.forms import Done

    still = {*outcome.plan.acts(), *(item.act for item in outcome.done)}
    return [
        Done(act, "done", "opening the store did it")
        for act in planned
        if act.repair in ("settle", "upgrade") and act not in still
    ]


def _document(
    app: App, *, repair: int, plan: Plan, done: Iterable[Done], left: Iterable[Remedy]
) -> None:
    app.out.document(
        repair=repair,
        home=plan.home,
        lost_metadata=plan.lost_metadata,
        plan=[remedy.as_data() for remedy in plan.remedies],
        done=[item.as_data() for item in done],
        left=[remedy.as_data() for remedy in left],
    )


def ask(question: str, yes: bool) -> None:
    """Go on if somebody says so. Raises InvalidArgument where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(
            "Nobody is there to be asked, and nothing was done.",
            hint="--plan says what would be done; --yes does it.",
        )
    click.confirm(question, abort=True, err=True)


# --- for a person ---------------------------------------------------------------------------------


def _tell_plan(app: App, plan: Plan) -> None:
    if plan.lost_metadata:
        app.out.line("THE RECORDS LOOK LOST, NOT THE LAYERS. Nothing is moved away.")
        app.out.line()
    acts = list(plan.acts())
    if acts:
        app.out.line(app.out.style("To be done, in this order", bold=True))
    for act in acts if app.out.verbose else acts[:_SHOWN]:
        app.out.line(clean(f"  {act.does}" + (f"  ({act.code})" if act.code else "")))
    _tell_more(app, len(acts))
    _tell_left(app, plan.left)
    if not acts and not plan.left:
        app.out.note("Clean: there is nothing to repair.")


def _tell_left(app: App, left: tuple[Remedy, ...]) -> None:
    if left:
        app.out.line(app.out.style("Left as it is", bold=True))
    for remedy in left if app.out.verbose else left[:_SHOWN]:
        app.out.line(clean(f"  {remedy.finding.message} ({remedy.finding.code})"))
        if remedy.left:
            app.out.line(clean(f"    {remedy.left}"))
    _tell_more(app, len(left))


def _tell_more(app: App, count: int) -> None:
    if count > _SHOWN and not app.out.verbose:
        app.out.line(f"  … and {count - _SHOWN} more (-v lists them)")


def _tell_act(app: App, item: Done) -> None:
    said = f"{item.outcome:<8}{item.act.does}"
    said += f": {item.message}" if item.message and item.outcome != "done" else ""
    name = item.operation or item.event
    said += f"  [{name}]" if name else ""
    app.out.line(clean(said))


def _undo(app: App, operation: str, yes: bool) -> int:
    ask(f"Take back {operation}?", yes)
    with app.store() as store:
        done = store.undo_repair(operation)
    if app.out.json:
        app.out.document(undone=done.as_data())
    else:
        _tell_act(app, done)
    return exits.REPAIRED if done.outcome == "done" else exits.FINDINGS


def _empty(app: App, yes: bool) -> int:
    """What was set aside goes for good."""
    ask("Remove for good what lies in the quarantine?", yes)
    with app.store() as store:
        emptied = store.empty_quarantine()
    failed = [item for item in emptied if item.message]
    if app.out.json:
        app.out.document(emptied=emptied)
    else:
        for item in emptied:
            said = f"left: {item.message}" if item.message else f"removed, {size(item.bytes)}"
            app.out.line(clean(f"{item.name}  {said}"))
        if not emptied:
            app.out.note("The quarantine is empty.")
    return exits.FINDINGS if failed else 0
