"""Names that may be joined to a path, and names that may not."""

from __future__ import annotations

import os
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.errors import InvalidHolder, InvalidLayerId
from layerstore.fs import layout
from layerstore.model import (
    LINK_PATTERN,
    OWNER_PREFIX,
    check_holder,
    check_layer_id,
    from_micros,
    to_micros,
)

ALNUM = string.ascii_letters + string.digits
any_text = st.text(max_size=140)
links = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=26, max_size=26)

TAKEN = ["l", "staging", "tempdirs", "backingFsBlockDev", "userxattr-check", "compat", "compat123",
         "opaque-bug-check1", "metacopy-check2", "multiple-lowerdir-check3"]  # fmt: skip
BAD = ["", ".", "..", ".hidden", "-x", "_x", "a/b", "../x", "/etc", "a\0b", "a\n", "a:b", "a,b", "a b",
       "a" * 129, "ａ", "а", "é", "a\u200b", "٣", ".layerstore", "a\\b", "a\ud800"]  # fmt: skip


def accepts(text: str) -> bool:
    """Whether this is a layer id."""
    try:
        return check_layer_id(text) == text
    except InvalidLayerId:
        return False


@given(text=any_text)
def test_what_is_accepted_is_one_safe_name(text: str) -> None:
    """An accepted id is ASCII without separators, one component, at most 128 long, and not the layout's."""
    if accepts(text):
        assert text.isascii() and 1 <= len(text) <= 128
        assert set(text) <= set(ALNUM + "_.-") and text[0] in ALNUM
        assert os.path.join("/home", text) == os.path.normpath(f"/home/{text}")
        assert text not in {layout.LINKS, layout.OWN, "staging"}
        assert layout.link_target(text) == f"../{text}/diff"


@given(first=st.sampled_from(ALNUM), rest=st.text(ALNUM + "_.-", max_size=127))
def test_ids_of_the_pattern_are_accepted(first: str, rest: str) -> None:
    """Every text of the pattern is an id, unless the layout or another program uses it."""
    text = first + rest
    taken = text in TAKEN or text.startswith(
        ("opaque-bug-check", "metacopy-check", "multiple-lowerdir-check", "check-overlayfs-support",
         "fsutils-dummy", "compat")
    )  # fmt: skip
    assert accepts(text) is not taken


@given(before=any_text, bad=st.sampled_from("/\0\n:,\\ \t*?'\"éａ\u200b"), after=any_text)
def test_one_bad_character_is_enough(before: str, bad: str, after: str) -> None:
    """A text with a separator, a control character or a look-alike anywhere is no id."""
    assert not accepts(before + bad + after)


@pytest.mark.parametrize("text", [*TAKEN, *BAD], ids=ascii)
def test_known_bad_ids_are_refused(text: str) -> None:
    """Each is refused by an error that names it."""
    with pytest.raises(InvalidLayerId) as caught:
        check_layer_id(text)
    assert repr(text) in caught.value.message


@given(text=st.text(max_size=260))
def test_holders_are_one_word(text: str) -> None:
    """An accepted holder is ASCII without blanks, at most 255 long, and never an owner's."""
    try:
        check_holder(text)
    except InvalidHolder as error:
        assert repr(text) in error.message
    else:
        assert text.isascii() and 1 <= len(text) <= 255 and text[0] in ALNUM
        assert not text.startswith(OWNER_PREFIX) and not set(text) & set(" \t\n\0,")


@given(first=st.sampled_from(ALNUM), rest=st.text(ALNUM + "_.:/@-", max_size=254))
def test_holders_of_the_pattern_are_accepted(first: str, rest: str) -> None:
    """Every text of the pattern is a holder's name, unless it looks like an owner."""
    if not (first + rest).startswith(OWNER_PREFIX):
        assert first + rest == check_holder(first + rest)


@given(name=st.text(ALNUM))
def test_nobody_can_pose_as_an_owner(name: str) -> None:
    """Names that begin as owners' do are refused."""
    with pytest.raises(InvalidHolder):
        check_holder(OWNER_PREFIX + name)


@given(chain=st.lists(links, max_size=20))
def test_a_lower_text_is_the_parent_in_front_of_its_own(chain: list[str]) -> None:
    """Stacked one by one, links come back from the text nearest first."""
    lower = ""
    for link in chain:
        assert LINK_PATTERN.fullmatch(link)
        lower = layout.child_lower(link, lower)
    assert tuple(reversed(chain)) == layout.lower_links(lower)
    assert (chain == []) == (lower == "")


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_times_survive_a_row(at: datetime) -> None:
    """A time comes back from a row as it was, to the microsecond."""
    assert at == from_micros(to_micros(at))


@pytest.mark.parametrize(
    "path",
    [
        layout.OWN, layout.STORE_FILE, layout.DATABASE, layout.STAGING, layout.TRASH, layout.PROBES,
        layout.QUARANTINE, layout.OWNERS, layout.STORE_LOCK, layout.WRITE_LOCK,
    ],
)  # fmt: skip
def test_the_stores_own_files_are_apart_from_layers(path: str) -> None:
    """What is the store's own lies below a name that no layer can have."""
    assert not accepts(path.partition("/")[0])
