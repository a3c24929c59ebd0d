"""What dockerd's requests mean, and what is said to requests that nobody should send."""

from __future__ import annotations

import json

import pytest

from layerstore.answers import Change, ChangeKind
from layerstore.docker import protocol
from layerstore.errors import LayerstoreError, UnknownLayer

HOSTILE = ["", "l", "..", "../x", "a/b", "/etc", ".", "-x", "a b", "a\0b", "é", "x" * 129, "a\n"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_go_no_further(text: str) -> None:
    """No id that is none reaches a verb, in a body, as a parent or in a query."""
    for call in (
        lambda: protocol.about({"id": text}),
        lambda: protocol.create({"id": text}),
        lambda: protocol.query(f"/GraphDriver.ApplyDiff?id={text}&parent="),
    ):
        with pytest.raises(LayerstoreError):
            call()
    if text:
        with pytest.raises(LayerstoreError):
            protocol.about({"id": "good", "parent": text})


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b'{"ID":1', b"\xff", b"[" * 100_000, b'"x"'])
def test_a_body_is_one_object(body: bytes) -> None:
    """Anything but one JSON object is refused in words."""
    with pytest.raises(LayerstoreError):
        protocol.fields(body)


def test_both_spellings_are_understood() -> None:
    """The keys of Docker's documentation and those that dockerd sends mean the same."""
    wire = b'{"Home":"/h","Opts":["a=b"],"UIDMaps":[{"container_id":0,"host_id":1,"size":2}]}'
    documented = b'{"home":"/h","Opts":["a=b"],"UidMaps":[{"ContainerID":0,"HostID":1,"Size":2}]}'
    first, second = (protocol.init(protocol.fields(body)) for body in (wire, documented))
    assert ("/h", ("a=b",)) == (first.home, first.options) == (second.home, second.options)
    assert 1 == len(first.uid_maps) == len(second.uid_maps)
    assert protocol.init({"home": "/h", "opts": None}).options == ()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"home": 1},
        {"home": "relative"},
        {"home": "/a\0b"},
        {"home": "/h", "opts": "x"},
        {"home": "/h", "opts": [1]},
        {"home": "/h", "uidmaps": [1]},
        {"home": "/h", "gidmaps": {"a": 1}},
    ],
)
def test_an_init_is_checked(values: dict[str, object]) -> None:
    """A home that is no absolute path, and lists that are none, are refused."""
    with pytest.raises(LayerstoreError):
        protocol.init(values)


def test_queries_are_not_escaped() -> None:
    """ApplyDiff's query has its values as they are; the parent may be empty; nothing twice."""
    found = protocol.query("/GraphDriver.ApplyDiff?id=a.b-c&parent=")
    assert ("a.b-c", None) == (found.id, found.parent)
    for bad in ("id=a&id=b", "id=%61%2e%2e", "parent=p", ""):
        with pytest.raises(LayerstoreError):
            protocol.query(f"/GraphDriver.ApplyDiff?{bad}")


def test_methods_are_named_by_paths() -> None:
    """Only a plugin's own paths name a method."""
    assert protocol.method_of("/Plugin.Activate") == "Activate"
    assert protocol.method_of("/GraphDriver.ApplyDiff?id=x") == "ApplyDiff"
    for path in ("/", "/GraphDriver.", "/VolumeDriver.Get", "GraphDriver.Get", "/GraphDriver.a.b"):
        assert protocol.method_of(path) is None, path


def test_answers_carry_any_path_and_any_error() -> None:
    """A path keeps its bytes, and an error its hint."""
    found = protocol.changes([Change("/a\udcff", ChangeKind.DELETE), Change("/b", ChangeKind.ADD)])
    text = protocol.encode(found)
    assert b'"Path":"/a\xff","Kind":2' in text
    assert [1] == [c["Kind"] for c in json.loads(text.decode("latin-1"))["Changes"][1:]]
    assert "no layer x. 'layerstore ls'" in protocol.failure(UnknownLayer("x"))["Err"]
    assert protocol.failure(OSError(28, "No space left", "/f"))["Err"] == "/f: No space left"
    assert protocol.failure(KeyError("k"))["Err"] == "unexpected KeyError: 'k'"
