"""Events to rows and back: what is written can be read, and what cannot is named."""

from __future__ import annotations

import json
import re
import typing
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import adoption_events, codec, content_events, home_events, repair_events
from layerstore import events as e
from layerstore.codec import TAGS
from layerstore.errors import JournalDamaged
from tests.model.instances import events, instances

MODULES = {
    module.__name__ for module in (e, home_events, content_events, repair_events, adoption_events)
}
CLASSES = sorted(
    (cls for cls in vars(e).values() if isinstance(cls, type) and cls.__module__ in MODULES),
    key=lambda cls: cls.__name__,
)


def reading(kind: str, data: str) -> JournalDamaged:
    """The error that row 4711 with this kind and these data raises."""
    with pytest.raises(JournalDamaged, match="Row 4711 of the journal") as caught:
        codec.decode(kind, data, seq=4711)
    return caught.value


def test_every_class_has_one_tag() -> None:
    """Each class of events.py has exactly one tag, and each tag a class of its own."""
    assert CLASSES == sorted(TAGS.values(), key=lambda cls: cls.__name__)


def test_every_class_is_in_the_union() -> None:
    """The union Event has every class, so that a match on it can be exhaustive."""
    assert set(CLASSES) == set(typing.get_args(e.Event))


def test_tags_are_versioned() -> None:
    """A tag is words with dots, the version last."""
    assert [] == [tag for tag in TAGS if not re.fullmatch(r"[a-z]+(\.[a-z]+)+\.v[1-9]\d*", tag)]


def test_events_are_frozen_values() -> None:
    """No event can be changed after it was made, and none has room for more fields."""
    for cls in CLASSES:
        assert "__slots__" in vars(cls)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(object.__new__(cls), attrs.fields(cls)[0].name, "x")


@given(event=events)
def test_a_round_trip_gives_the_event_back(event: Any) -> None:
    """What is encoded decodes to an equal event, and encodes to the same text again."""
    kind, data = codec.encode(event)
    again = codec.decode(kind, data, seq=1)
    assert event == again
    assert (kind, data) == codec.encode(again)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_every_class_makes_the_round_trip(cls: type[Any], data: st.DataObject) -> None:
    """Each class, with whatever values its fields can have, comes back as itself."""
    event = data.draw(instances(cls))
    kind, text = codec.encode(event)
    assert TAGS[kind] is cls
    assert event == codec.decode(kind, text, seq=1)


@given(event=events)
def test_what_is_written_is_what_cattrs_would_write(event: Any) -> None:
    """The encoder of this package, which is faster to start, writes the fields as cattrs does."""
    fields = codec._converter().unstructure(event)
    assert json.dumps(fields, separators=(",", ":"), ensure_ascii=False) == codec.encode(event)[1]


@given(event=events)
def test_a_row_is_one_line_of_text(event: Any) -> None:
    """The JSON has no line break, so that a journal can be a file of lines."""
    assert "\n" not in codec.encode(event)[1]


@given(kind=st.text(max_size=40).filter(lambda kind: kind not in TAGS))
def test_an_unknown_tag_names_the_row(kind: str) -> None:
    """A kind that no version knows is JournalDamaged with the row and the kind."""
    error = reading(kind, "{}")
    assert repr(kind) in error.message and "newer layerstore" in error.hint


@given(event=events, name=st.text(min_size=1, max_size=8))
def test_an_extra_field_names_the_row(event: Any, name: str) -> None:
    """A field that the class does not have is an error, never left out in silence."""
    kind, data = codec.encode(event)
    fields = json.loads(data)
    if name not in fields:
        reading(kind, json.dumps(fields | {name: 1}))


@given(event=events, data=st.data())
def test_a_missing_field_names_the_row(event: Any, data: st.DataObject) -> None:
    """A field that is missing is an error, never a default."""
    kind, text = codec.encode(event)
    fields = json.loads(text)
    del fields[data.draw(st.sampled_from(sorted(fields)))]
    reading(kind, json.dumps(fields))


@given(event=events, data=st.data())
def test_a_truncated_row_names_the_row(event: Any, data: st.DataObject) -> None:
    """A row that breaks off anywhere is an error."""
    kind, text = codec.encode(event)
    reading(kind, text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize(
    "data", ["", "nonsense", "[]", "null", "1", '"text"', "{", '{"layer":}', "\x00", "{}"]
)
@pytest.mark.parametrize("kind", sorted(TAGS))
def test_garbled_json_names_the_row(kind: str, data: str) -> None:
    """Text that is no JSON object of the class is an error for every kind."""
    assert kind in reading(kind, data).message


def wrong_values() -> list[tuple[str, str, Any]]:
    """For each field of each class a value of another type."""
    found = []
    for tag, cls in TAGS.items():
        hints = typing.get_type_hints(cls)
        for name, kind in hints.items():
            allowed = {kind, *typing.get_args(kind)}
            wrong: Any = ["x"] if allowed & {str, int, bool} else 5
            if typing.get_origin(kind) is tuple:
                wrong = "text"
            found.append((tag, name, wrong))
    return found


@pytest.mark.parametrize(("tag", "name", "wrong"), wrong_values())
@settings(max_examples=3)
@given(data=st.data())
def test_a_value_of_another_type_names_the_row(
    tag: str, name: str, wrong: Any, data: st.DataObject
) -> None:
    """A field whose value has another type than the class says is an error."""
    kind, text = codec.encode(data.draw(instances(TAGS[tag])))
    reading(kind, json.dumps(json.loads(text) | {name: wrong}))


def test_an_adoption_of_the_second_version_is_read() -> None:
    """It said nothing of the parent: the index had what it had."""
    event = e.LayerAdopted("a", "A" * 26, "p", "l/B", 1, False, "a test", 7, 4096)
    tag, data = codec.encode(event)
    assert "layer.adopted.v3" == tag
    fields = json.loads(data)
    del fields["commits_parent"]
    assert event == codec.decode("layer.adopted.v2", json.dumps(fields), seq=1)
