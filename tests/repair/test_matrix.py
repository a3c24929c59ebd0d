"""Every damage of the table, repaired: the audit is clean then, and no byte of a layer is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import Store
from layerstore import model as m
from layerstore.audit import audit, examine
from layerstore.audit.codes import CODES
from layerstore.errors import LayerstoreError, Refused
from layerstore.fs import layout
from layerstore.repair import acting, planning
from layerstore.repair.forms import Outcome
from layerstore.repair.planning import _RULES
from layerstore.repair.verb import plan_repair
from tests.audit import damages
from tests.audit.damages import ALL, COMBINED, Damage
from tests.repair.trees import bad, contents, shape, works

pytestmark = pytest.mark.root

OURS = [damage for damage in ALL if damages.STORE in damage.kinds and not damage.content]
"""Content is read only where an audit is asked to, and nothing but a copy has it."""
STAYS = {
    "missing-diff": {"missing-diff"},
    "volatile-work": {"volatile-work"},
    "half-unpacked": {"half-unpacked"},
    "mount-differs": {"mount-differs"},
    "damaged-journal": {"damaged-journal"},
}
"""What no repair can mend, since it is not in the store, or is somebody's to decide; and what an audit
says then."""
UNOPENED = {"lost-database", "damaged-database", "old-schema"}
"""What keeps a store from being opened. (The older schema of the table is a lie about a newer one.)"""
CAN_BE_REPAIRED = [damage for damage in OURS if damage.code not in {*STAYS, *UNOPENED}]
TREE_GONE = "tree gone"


def repaired(home: Path, damage: Damage) -> Outcome:
    """What a repair did; a note is only looked after where it is asked for."""
    with Store.open(home) as store:
        return store.repair(only=[damage.code] if damage.note else [])


@pytest.mark.parametrize("damage", OURS, ids=[damage.name for damage in OURS])
def test_damage_is_repaired(bare: Path, damage: Damage) -> None:
    """The audit is clean afterwards, or names what is documented to stay; the other layers work."""
    home = damages.make(bare, damages.STORE)
    damage.do(home)
    before = contents(home)
    plan, report = plan_repair(home)
    assert damage.lost == plan.lost_metadata
    assert all(act.does and act.repair for act in plan.acts())
    if damage.lost:
        assert not [act for act in plan.acts() if act.moves]
    if damage.code in UNOPENED:
        with pytest.raises(Exception, match=r".") as caught:
            Store.open(home)
        assert damage.code == "old-schema" or isinstance(caught.value, LayerstoreError)
        assert all(remedy.left for remedy in plan.left) and before == contents(home)
        return
    outcome = repaired(home, damage)
    assert before == contents(home)
    for done in outcome.done:
        assert done.act.repair in CODES[done.act.code].repairs, done
        assert "failed" != done.outcome, done
    left = {item.code for item in bad(home)}
    if damage.name == TREE_GONE:
        assert {"lost-metadata", "missing-layer"} == left and not outcome.done
        return
    assert STAYS.get(damage.code, set()) == left
    assert left == {remedy.finding.code for remedy in outcome.left}
    assert all(remedy.left for remedy in outcome.left)
    hit = {item.layer for item in report.findings if item.layer} if left else set()
    works(home, apart=hit)
    assert left == {item.code for item in bad(home)} or damage.code == "mount-differs"


@pytest.mark.crash
@pytest.mark.campaign
@pytest.mark.parametrize("damage", CAN_BE_REPAIRED, ids=[d.name for d in CAN_BE_REPAIRED])
def test_repair_is_repeated_and_taken_back(bare: Path, damage: Damage) -> None:
    """A second repair does nothing; each act on the tree, taken back, leaves what was there before."""
    home = damages.make(bare, damages.STORE)
    damage.do(home)
    before = contents(home)
    with Store.open(home) as store:
        broken = shape(home)
        only = [damage.code] if damage.note else []
        outcome = store.repair(only=only)
        whole = shape(home)
        again = store.repair(only=only)
        assert () == again.done and whole == shape(home)
        forward_only = ("unmount", "bring-back")
        undone = [d for d in outcome.done if d.operation and d.act.repair not in forward_only]
        for item in reversed(undone):
            assert item.operation is not None
            back = store.undo_repair(item.operation)
            assert "done" == back.outcome, back
            with pytest.raises(LayerstoreError, match="taken back already"):
                store.undo_repair(item.operation)
        if len(undone) == len(outcome.done):
            assert broken == shape(home)
        if undone and outcome.done == tuple(undone):
            assert damage.note or damage.code in {item.code for item in bad(home)}
        store.repair(only=only)
    assert before == contents(home)
    assert damage.name == TREE_GONE or not bad(home)


MENDED = [
    damage
    for damage in COMBINED
    if damage.code not in {*STAYS, *UNOPENED} and damages.STORE in damage.kinds
]
TOGETHER = st.lists(st.sampled_from(MENDED), min_size=2, max_size=3, unique=True).filter(
    lambda some: all(a.touches.isdisjoint(b.touches) for a, b in itertools.combinations(some, 2))
)


@pytest.mark.crash
@pytest.mark.campaign
@given(some=TOGETHER)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_damages_together_are_repaired(some: list[Damage]) -> None:
    """Two or three damages at once are mended, nothing is lost, and all of it can be taken back."""
    base = os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="layerstore-", dir=base))
    try:
        home = damages.make(place, damages.STORE)
        for damage in some:
            damage.do(home)
        before = contents(home)
        only = [item.code for item in audit(home).findings] if any(d.note for d in some) else []
        with Store.open(home) as store:
            broken = shape(home)
            outcome = store.repair(only=only)
            assert before == contents(home)
            assert [] == bad(home) and () == outcome.left
            assert () == store.repair(only=only).done
            if all(item.operation for item in outcome.done):
                for item in reversed(outcome.done):
                    store.undo_repair(str(item.operation))
                assert broken == shape(home)
                store.repair(only=only)
        works(home)
    finally:
        shutil.rmtree(place)


def test_every_code_has_a_rule() -> None:
    """Whatever an audit finds, a plan has acts for it, or says why not and what else."""
    assert set(CODES) == set(_RULES)
    assert {repair for code in CODES.values() for repair in code.repairs} >= {
        "refold",
        "quarantine",
    }


def test_a_layer_of_the_index_is_not_taken_away_again(bare: Path) -> None:
    """What was brought back from the trash stays, and what was adopted meanwhile, too."""
    home = damages.make(bare, damages.STORE)
    (home / "alone").rename(home / layout.TRASH / ("0" * 32))
    damages.hand_made(home, "found")
    (home / "found/diff").rmdir()
    with Store.open(home) as store:
        done = {item.act.layer: item for item in store.repair().done}
        brought, aside = done["alone"].operation, done["found"].operation
        assert brought is not None and aside is not None
        with pytest.raises(Refused, match=r"bring-back.*in the trash it would be lost"):
            store.undo_repair(brought)
        back = store.undo_repair(aside)
        (home / "found/diff").mkdir()
        assert ["make-link", "adopt"] == [item.act.repair for item in store.repair().done]
        with pytest.raises(Refused, match="found is not moved: it is a layer of the index"):
            store.undo_repair(str(back.operation))
        assert {"alone", "found"} <= {str(layer.id) for layer in store.layers()}
    assert [] == bad(home)


def test_a_repair_of_the_home_itself(bare: Path) -> None:
    """A home that everybody may write to is closed, and what it was is known for the way back."""
    home = damages.make(bare, damages.STORE)
    home.chmod(0o777)
    with Store.open(home) as store:
        (done,) = store.repair().done
        assert 0o755 == home.stat().st_mode & 0o7777
        store.undo_repair(str(done.operation))
        assert 0o777 == home.stat().st_mode & 0o7777
        store.repair()
    assert [] == bad(home)


def test_what_changed_since_the_plan_is_left_alone(bare: Path) -> None:
    """A plan that is older than what lies there does nothing about it."""
    home = damages.make(bare, damages.STORE)
    (home / "new").mkdir()
    report, view = examine(home)
    acts = planning.plan(report, view).acts()
    (home / "new/diff").mkdir()
    with Store.open(home) as store:
        (done,) = acting.carry_out(store._worker(), acts)
        assert "skipped" == done.outcome and (home / "new/diff").is_dir()


def test_a_trial_of_a_living_process_is_left_alone(bare: Path) -> None:
    """What a process that has the store open tries out in staging is not set aside."""
    home = damages.make(bare, damages.STORE)
    with Store.open(home) as store:
        (home / layout.STAGING / f"{layout.TRIAL}x").mkdir()
        outcome = store.repair()
        assert () == outcome.done and "staging-leftover" == outcome.left[0].finding.code


def test_nothing_is_moved_where_records_look_lost(bare: Path) -> None:
    """An index that knows nothing makes every layer a stranger: none of them is touched."""
    home = damages.make(bare, damages.STORE)
    (bare / "other").mkdir()
    other = damages.make(bare / "other", damages.STORE)
    for path in (home / layout.OWN).glob("journal.db*"):
        path.unlink()
    (other / layout.DATABASE).rename(home / layout.DATABASE)
    before = shape(home)
    plan, report = plan_repair(home)
    assert report.lost_metadata and [] == list(plan.acts())
    assert before == shape(home)


def test_a_layer_that_others_stand_on_stays(bare: Path) -> None:
    """A layer whose directory is gone, and whose child is there, keeps its row."""
    home = damages.make(bare, damages.STORE)
    (home / "mid").rename(bare / "elsewhere")
    with Store.open(home) as store:
        outcome = store.repair()
        assert {"mid"} <= {remedy.finding.layer for remedy in outcome.left}
        assert "mid" in {layer.id for layer in store.layers()}
    (bare / "elsewhere").rename(home / "mid")
    assert [] == bad(home)
    works(home)


def test_notes_are_left_alone(bare: Path) -> None:
    """Without being asked for, what is worth a word only is not touched."""
    home = damages.make(bare, damages.STORE)
    (home / "lone/committed").touch()
    with Store.open(home) as store:
        assert () == store.repair().done
        assert ("clear-committed",) == tuple(
            item.act.repair for item in store.repair(only=["committed-without-child"]).done
        )
    assert not (home / "lone/committed").exists()
    assert m.Severity.NOTE == CODES["committed-without-child"].severity
