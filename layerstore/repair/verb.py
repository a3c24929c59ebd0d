"""Owns the verbs `repair`, `undo_repair` and `empty_quarantine` of a Store; it must not decide what they do.

`Repairing` is a part of Store, in a module of its own; what it takes is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from layerstore import events as e
from layerstore import model as m
from layerstore.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore import answers, options
    from layerstore.audit import Report
    from layerstore.audit.census import Progress
    from layerstore.recovery import Decision, Hands
    from layerstore.repair.acting import Worker
    from layerstore.repair.forms import Done, Emptied, Outcome, Plan

ROUNDS: Final = 6
"""Mending one thing brings the next to light: `l/`, then its links, then the layers that they lead to."""


def plan_repair(
    home: Path, *, only: Iterable[str] = (), progress: Progress | None = None
) -> tuple[Plan, Report]:
    """What a repair of the store at `home` would do, and the audit it comes from. Changes nothing.

    Raises NoStore, SchemaTooNew, InvalidArgument for a code that there is not.
    """
    from layerstore import adoption, description
    from layerstore.audit import examine
    from layerstore.audit.census import refuse_served
    from layerstore.fs import layout
    from layerstore.repair import planning

    wanted = planning.check_only(only)
    refuse_served(os.fspath(home))
    adoption.refuse(home)
    if not (home / layout.OWN).is_dir():
        description.read(home)  # raises NoStore
    report, view = examine(home, progress=progress)
    return planning.plan(report, view, only=wanted), report


class Repairing:
    """What a Store does about what an audit finds."""

    if TYPE_CHECKING:  # a Store has these
        _hands: Hands
        _home: str
        _options: options.Options

        def recover(self) -> tuple[m.Settled, ...]: ...
        def _operate(self, decision: Decision) -> e.Intent | None: ...
        def _check_usable(self) -> None: ...
        def events(
            self, *, layer: str | None = None, kind: str | None = None, after_seq: int = 0
        ) -> Iterator[answers.Entry]: ...

    def repair(
        self,
        *,
        only: Iterable[str] = (),
        told: Callable[[Done], None] | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Mend what an audit finds: derive what can be derived, set aside what is not understood.

        `only`: the codes of the findings that are meant; notes are left alone unless they are among
        them. `told` hears of each act as it is done. Nothing is removed for good; `undo_repair` takes
        an act back. Raises InvalidArgument for a code that there is not.
        """
        from layerstore.audit import examine
        from layerstore.repair import acting, planning
        from layerstore.repair.case import Owners
        from layerstore.repair.forms import Outcome

        self._check_usable()
        wanted = planning.check_only(only)
        owners = Owners(self._options.uid, self._options.gid)
        done: list[Done] = []
        first: Plan | None = None
        for _ in range(ROUNDS):
            report, view = examine(Path(self._home), progress=progress)
            plan = planning.plan(report, view, only=wanted, owners=owners)
            first = first or plan
            tried = {item.act for item in done}
            acts = [act for act in plan.acts() if act not in tried]
            if not acts:
                break
            for item in acting.carry_out(self._worker(), iter(acts)):
                done.append(item)
                if told is not None:
                    told(item)
        else:
            report, view = examine(Path(self._home))
            plan = planning.plan(report, view, only=wanted, owners=owners)
        assert first is not None
        noted = m.Severity.NOTE
        left = tuple(item for item in plan.remedies if item.finding.severity is not noted)
        return Outcome(first, tuple(done), left)

    def undo_repair(self, operation: str) -> Done:
        """Take back one repair, while what it set aside stands.

        It is named by its operation; an act on records alone by the number of its event. Raises
        InvalidArgument for what is no repair, Refused where something changed since, or where it would
        be the damage again.
        """
        from layerstore.repair import records, undoing

        self._check_usable()
        if records.is_event(operation):
            return records.undo(self._worker(), self.events, int(operation))
        return undoing.undo(self._worker(), self.events(kind="repair."), operation)

    def empty_quarantine(self) -> tuple[Emptied, ...]:
        """Remove for good what repairs and others set aside. What cannot be removed says why.

        Raises Refused where the records look lost: what lies there may be the only copy.
        """
        from layerstore.audit import examine
        from layerstore.repair import undoing

        self._check_usable()
        report, _ = examine(Path(self._home))
        if report.lost_metadata:
            raise Refused(
                "The quarantine is not emptied: the records look lost, and not the layers.",
                hint="'layerstore audit' says more; 'layerstore db restore FILE' first.",
            )
        return tuple(undoing.empty(self._worker()))

    def _worker(self) -> Worker:
        from layerstore.repair.acting import Worker

        return Worker(self._hands, self._operate, self.recover)
