"""The tables of the rules are whole: a new verb, event or step fails here until each has its row."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import events as e
from layerstore import plan, projection, repair_steps, state
from layerstore.codec import TAGS
from layerstore.fs import aside_steps, layout, perform, steps
from layerstore.fs.steps import Performed
from layerstore.model import Verb
from layerstore.rows import _STATES
from tests.model.instances import instances

INTENTS = {verb: state.TRIPLES[verb].intended for verb in Verb if verb in state.TRIPLES}
STEPS = [
    cls
    for cls in vars(steps).values()
    if isinstance(cls, type)
    and cls.__module__ in (steps.__name__, aside_steps.__name__)
    and cls is not Performed
]
NO_LAYER_OF_ITS_OWN = {Verb.EMPTY}
"""Verbs whose `layer` is never the id of a layer, so that no layer has a state by them."""

link = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=26, max_size=26)
name = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
operations = st.text("0123456789abcdef", min_size=32, max_size=32)


@st.composite
def sensible(draw: st.DrawFn, cls: type[Any]) -> Any:
    """An intent whose fields agree with each other, as the store's own do."""
    event = draw(instances(cls))
    values: dict[str, Any] = {
        field: draw(name) for field in ("layer", "holder", "entry") if hasattr(event, field)
    }
    links = draw(st.lists(link, min_size=1, max_size=5))
    if hasattr(event, "lower"):
        values["lower"] = ":".join(f"l/{item}" for item in links)
    if hasattr(event, "link"):
        values["link"] = draw(link)
    if cls is e.LayerMountIntended:
        values["chain"] = tuple(draw(name) for _ in links)
    if cls is e.LayerCreateIntended:
        values["parent"] = draw(st.none() | name)
        values |= (
            {"parent_link": links[0]} if values["parent"] else {"parent_link": "", "lower": ""}
        )
    if cls is e.LayerUnmountIntended:
        values["reason"] = draw(st.sampled_from(["put", "cleanup", "no holder", "lost"]))
    if cls is e.TreeCorrectIntended:
        values |= {"correction": draw(st.sampled_from(plan.CORRECTIONS)), "name": draw(link)}
    if cls is e.RepairIntended:
        values |= {
            "path": draw(name),
            "put": draw(st.sampled_from(repair_steps.PUTS)),
            "content": draw(name | name.map(lambda entry: f"{layout.quarantine(entry)}/{entry}")),
        }
    return attrs.evolve(event, **values)


def test_every_verb_has_a_triple() -> None:
    """Each verb has an intent and two outcomes, nine words that belong to no other verb."""
    assert set(Verb) == set(state.TRIPLES)
    classes = [cls for triple in state.TRIPLES.values() for cls in attrs.astuple(triple)]
    assert len(classes) == len(set(classes))


def test_triples_are_the_unions() -> None:
    """What the tables call intent, done and undone is what the unions of events.py call so."""
    for union, field in ((e.Intent, "intended"), (e.Done, "done"), (e.Undone, "undone")):
        assert set(typing.get_args(union)) == {getattr(t, field) for t in state.TRIPLES.values()}


def test_every_verb_has_a_recovery_rule() -> None:
    """Whatever the disk says about an operation of any verb, recovery knows what to do."""
    assert set(Verb) == set(state.RECOVERY)
    for verb in Verb:
        for published in (False, True):
            for trashed in (False, True):
                rule = state.rule_for(verb, state.Evidence(published, trashed))
                assert isinstance(rule, state.Rule)


def test_a_remove_goes_on_once_it_has_renamed() -> None:
    """Only a remove whose layer still stands, and is not in the trash, is undone."""
    rules = {
        (published, trashed): state.rule_for(Verb.REMOVE, state.Evidence(published, trashed))
        for published in (False, True)
        for trashed in (False, True)
    }
    assert [(True, False)] == [seen for seen, rule in rules.items() if rule is state.Rule.UNDO]


def test_every_verb_has_plans() -> None:
    """Each intent has a plan forwards and one backwards."""
    assert set(INTENTS.values()) == set(plan._FORWARD) == set(plan._BACKWARD)


def test_every_verb_gives_a_layer_a_state() -> None:
    """A layer with any operation in flight has a state to be shown with."""
    assert {*Verb, None} - NO_LAYER_OF_ITS_OWN == set(_STATES)


def test_every_event_changes_a_table_or_says_that_it_does_not() -> None:
    """An event without a projection is an intent, an outcome, or one of those that only tell."""
    telling = {
        e.StoreInitialized,
        e.StoreRebuilt,
        e.StoreMoved,
        e.StoreCopied,
        e.StoreRestored,
        e.JournalCompacted,
        e.IndexRefolded,
        e.TreeAdopted,
        e.TreeReleased,
        e.TreeTakenOver,
    }
    silent = set(TAGS.values()) - set(projection._PROJECT) - set(state.OUTCOMES) - telling
    assert set() == silent - set(state.VERB_OF_INTENT)


@pytest.mark.parametrize("verb", list(Verb))
@settings(max_examples=50)
@given(data=st.data())
def test_plans_are_pure(verb: Verb, data: st.DataObject) -> None:
    """The same intent and name give equal steps each time, and the plans change neither."""
    intent, operation = data.draw(sensible(INTENTS[verb])), data.draw(operations)
    copy = attrs.evolve(intent)
    for make in (plan.forward, plan.again, plan.backward):
        assert make(operation, intent) == make(operation, copy)
    assert intent == copy


@pytest.mark.parametrize("verb", list(Verb))
@settings(max_examples=50)
@given(data=st.data())
def test_steps_say_what_they_do_and_stay_below_the_home(verb: Verb, data: st.DataObject) -> None:
    """Each step of a plan describes itself in one line, is performed by someone, and names no path outside."""
    intent, operation = data.draw(sensible(INTENTS[verb])), data.draw(operations)
    for step in (*plan.again(operation, intent), *plan.backward(operation, intent)):
        assert type(step) in perform._PERFORM
        assert step.describe() and "\n" not in step.describe()
        for field in ("path", "source", "target", "scratch", "upper", "work"):
            path = getattr(step, field, None) or ""
            if field == "target" and path.startswith("../"):
                path = path.removeprefix("../")  # what a link reads
            assert not path.startswith("/") and ".." not in path.split("/"), (step, field)


@pytest.mark.parametrize("verb", list(Verb))
@settings(max_examples=50)
@given(data=st.data())
def test_what_recovery_repeats_begins_like_the_first_run(verb: Verb, data: st.DataObject) -> None:
    """Recovery's steps are the first run's, with at most some more after them."""
    intent, operation = data.draw(sensible(INTENTS[verb])), data.draw(operations)
    first = plan.forward(operation, intent)
    assert first == plan.again(operation, intent)[: len(first)]


@pytest.mark.parametrize("verb", list(Verb))
@settings(max_examples=20)
@given(data=st.data())
def test_outcomes_fit_their_verb(verb: Verb, data: st.DataObject) -> None:
    """The outcomes that a plan gives may end an operation of this verb, and of no other."""
    intent = data.draw(sensible(INTENTS[verb]))
    triple = state.TRIPLES[verb]
    outcomes = (
        plan.done(intent, Performed()),
        plan.undone(intent, "why", in_use=False),
        plan.undone(intent, "why", in_use=True),
    )
    assert (triple.done, triple.undone, triple.undone) == tuple(map(type, outcomes))
    for outcome in outcomes:
        assert [verb] == [other for other in Verb if state.ends(other, outcome)]
        assert intent.layer == outcome.layer


@settings(max_examples=50)
@given(data=st.data())
def test_publishing_comes_last(data: st.DataObject) -> None:
    """In a create nothing but a sync follows the rename that makes the layer visible."""
    intent = data.draw(sensible(e.LayerCreateIntended))
    kinds = [type(step) for step in plan.forward("0" * 32, intent)]
    after = kinds[kinds.index(steps.Publish) + 1 :]
    assert ([steps.SyncDirectory] if intent.durable else []) == after


def test_every_step_has_a_performer() -> None:
    """Each class of steps.py is in the union, and in the interpreter's table."""
    assert set(STEPS) == set(typing.get_args(steps.Step)) == set(perform._PERFORM)


def every(cls: type[Any]) -> Iterator[Any]:
    """An intent class with each combination of the values that decide about its steps."""
    one, two = "A" * 26, "B" * 26
    deciding: dict[str, tuple[Any, ...]] = {
        "reason": ("put", "lost"),
        "correction": plan.CORRECTIONS,
        "put": repair_steps.PUTS,
        "parent": (None, "parent"),
    }
    fixed: dict[str, Any] = {
        "link": one,
        "parent_link": two,
        "lower": f"l/{two}",
        "chain": ("parent",),
        "name": one,
    }
    fixed |= {"labels": {}, "storage_options": {}, "depth": 1}
    choices = {}
    for name, kind in typing.get_type_hints(cls).items():
        whatever = (False, True) if kind is bool else (fixed.get(name, "x"),)
        choices[name] = deciding.get(name, whatever)
    for values in itertools.product(*choices.values()):
        yield cls(**dict(zip(choices, values, strict=True)))


def test_every_step_is_used() -> None:
    """Each step is part of some plan: one that nobody performs is not left lying about."""
    used = {
        type(step)
        for cls in INTENTS.values()
        for intent in every(cls)
        for step in (*plan.again("0" * 32, intent), *plan.backward("0" * 32, intent))
    }
    assert set(STEPS) == used
