"""Overlays are mounted in three styles, taken off, and asked for, on real mounts."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from layerstore.fs import files, mount, syscalls
from layerstore.fs.mount import (
    STYLES,
    OverlayOptions,
    Unmounted,
    mount_overlay,
    unmount,
)
from layerstore.fs.mountinfo import is_mount_root, mounts_below
from layerstore.fs.namespaces import in_user_namespace
from layerstore.fs.upper import upper_is_free

pytestmark = pytest.mark.root


def attributes(path):
    """All extended attributes below a path."""
    return {
        (entry, name): os.getxattr(entry, name)
        for top, _, files in os.walk(path)
        for entry in [top, *(f"{top}/{file}" for file in files)]
        for name in os.listxattr(entry)
    }


@pytest.mark.parametrize("style", STYLES)
def test_mount_shows_nearest_first(layer_home, style):
    """In each style the nearest lower wins, and writes go to the upper."""
    used = mount_overlay(
        layer_home.merged, layer_home.options(), home=layer_home.path, styles=(style,)
    )
    Path(f"{layer_home.merged}/new").write_text("x")

    assert style == used
    assert "0" == Path(f"{layer_home.merged}/common").read_text()
    assert ["common", "file0", "file1", "new"] == sorted(os.listdir(layer_home.merged))
    assert ["new"] == os.listdir(layer_home.upper)


@pytest.mark.parametrize("style", STYLES)
def test_mount_without_upper_is_read_only(layer_home, style):
    """In each style a mount without an upper refuses writes, and is a read-only mount."""
    options = layer_home.options(read_only=True)
    mount_overlay(layer_home.merged, options, home=layer_home.path, styles=(style,))

    with pytest.raises(OSError) as caught:
        os.mkdir(f"{layer_home.merged}/new")
    assert errno.EROFS == caught.value.errno
    assert "ro" in mounts_below(layer_home.path)[0].options


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["a,b:c", "back\\slash", "a\\,b\\:", 'sp ace"quote', "\udcff"])
def test_mount_takes_any_name(scratch, make_home, style, name):
    """In each style a home may have commas, colons, backslashes, quotes and odd bytes in its name."""
    home = make_home(f"{scratch}/{name}")
    mount_overlay(home.merged, home.options(), home=home.path, styles=(style,))
    os.mkdir(f"{home.merged}/new")

    assert ["new"] == os.listdir(home.upper)
    assert [home.merged] == [entry.mount_point for entry in mounts_below(home.path)]
    # Here and not in the fixture: not every reader of mountinfo can take bytes that are no UTF-8.
    assert Unmounted.CLEAN == unmount(home.merged)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_mount_in_a_long_home(scratch, make_home, style, read_only):
    """In each style a home may have a path of more than 300 characters."""
    home = make_home(f"{scratch}/{'a' * 200}/{'b' * 200}")
    options = home.options(read_only=read_only)
    mount_overlay(home.merged, options, home=home.path, styles=(style,))

    assert "1" == Path(f"{home.merged}/file1").read_text()


def test_mount_changes_no_current_directory(layer_home):
    """The relative style leaves the current directory of the process alone."""
    before = os.getcwd()
    mount_overlay(
        layer_home.merged, layer_home.options(), home=layer_home.path, styles=("relative",)
    )

    assert before == os.getcwd()


def test_mount_takes_a_relative_target(layer_home, monkeypatch):
    """A relative target means the same in each style, whatever home is."""
    monkeypatch.chdir(f"{layer_home.path}/layer")
    for style in STYLES:
        mount_overlay("merged", layer_home.options(), home=layer_home.path, styles=(style,))
        assert Unmounted.CLEAN == unmount(layer_home.merged)


def test_depth_500(scratch, make_home):
    """The new interface mounts 500 lowers."""
    home = make_home(f"{scratch}/home", 500)

    assert "new" == mount_overlay(home.merged, home.options(500), home=home.path)
    assert "499" == Path(f"{home.merged}/file499").read_text()


def test_depth_501_is_refused_in_words(scratch, make_home):
    """The kernel refuses 501 lowers, no other style is tried, and the error repeats what it says."""
    home = make_home(f"{scratch}/home", 501)
    with pytest.raises(OSError, match="limit is 500") as caught:
        mount_overlay(home.merged, home.options(501), home=home.path)

    assert (errno.EINVAL, home.merged) == (caught.value.errno, caught.value.filename)
    assert not is_mount_root(home.merged)


def test_relative_where_a_page_is_too_small(scratch, make_home):
    """Options that do not fit a page with absolute paths are said with relative ones."""
    home = make_home(f"{scratch}/{'x' * 60}", 120)
    style = mount_overlay(
        home.merged, home.options(120), home=home.path, styles=("absolute", "relative")
    )

    assert "relative" == style
    assert "119" == Path(f"{home.merged}/file119").read_text()


def test_too_many_for_a_page(scratch, make_home):
    """Options that do not fit a page at all are E2BIG, and nothing is mounted."""
    home = make_home(f"{scratch}/home", 150)
    with pytest.raises(OSError, match="bytes") as caught:
        mount_overlay(
            home.merged, home.options(150), home=home.path, styles=("absolute", "relative")
        )

    assert (errno.E2BIG, home.merged) == (caught.value.errno, caught.value.filename)
    assert not is_mount_root(home.merged)


def test_old_kernel(layer_home, old_kernel):
    """A kernel without fsopen gets mount(2)."""
    assert "absolute" == mount_overlay(
        layer_home.merged, layer_home.options(), home=layer_home.path
    )


def test_legacy_overlay_lacks_lowerdir_plus(monkeypatch):
    """A kernel that takes any option, to refuse it when it is too late, is one without `lowerdir+`."""
    monkeypatch.setattr(syscalls, "fsconfig", lambda *arguments: None)
    mount.has_lowerdir_plus.cache_clear()
    try:
        assert not mount.has_lowerdir_plus()
    finally:
        mount.has_lowerdir_plus.cache_clear()


@pytest.mark.parametrize("style", STYLES)
def test_missing_lower_is_an_error(layer_home, style):
    """A lower that is missing is ENOENT with the target, in each style, and no other style is tried."""
    os.unlink(layer_home.options().lowers[1])
    styles = (style, *STYLES)
    with pytest.raises(FileNotFoundError) as caught:
        mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path, styles=styles)

    assert layer_home.merged == caught.value.filename


def test_label_is_passed(layer_home):
    """A label reaches the kernel as the option `context`, which a kernel without SELinux refuses."""
    seen = []

    def fsconfig(fd, command, key, value, aux):
        seen.append((key, value))

    options = OverlayOptions(
        layer_home.options().lowers, None, None, "system_u:object_r:x:s0:c1,c2"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscalls, "fsconfig", fsconfig)
        patch.setattr(mount, "has_lowerdir_plus", lambda: True)
        with pytest.raises(OSError):
            mount_overlay(layer_home.merged, options, home=layer_home.path, styles=("new",))

    assert ("context", "system_u:object_r:x:s0:c1,c2") in seen


@pytest.mark.parametrize(
    "arguments",
    [
        ((), None, None),
        (("",), None, None),
        (("/a", "l/b"), None, None),
        (("/a",), "/u", None),
        (("/a",), "u", "w"),
        (("/a",), None, None, 'a"b'),
    ],
)
def test_options_that_mean_something_else(arguments):
    """Options that the kernel would read as something else are refused before they are used."""
    with pytest.raises(ValueError):
        OverlayOptions(*arguments)


def test_parameters_off(layer_home):
    """What this kernel knows of index, metacopy and redirect_dir is switched off, unless said otherwise."""
    redirect = Path("/sys/module/overlay/parameters/redirect_dir")
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    before = redirect.read_text()
    assert unmount(layer_home.merged) is Unmounted.CLEAN
    redirect.write_text("Y")
    try:
        mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    finally:
        redirect.write_text(before)

    assert "redirect_dir=on" not in mounts_below(layer_home.path)[0].super_options


# -- unmount -------------------------------------------------------------------------------------


def test_unmount(layer_home):
    """A mount that nobody uses comes off cleanly, and then nothing is mounted."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)

    assert Unmounted.CLEAN == unmount(layer_home.merged)
    assert Unmounted.NOT_MOUNTED == unmount(layer_home.merged)
    assert Unmounted.NOT_MOUNTED == unmount(f"{layer_home.path}/missing")


def test_unmount_in_use_is_detached(layer_home):
    """A mount that stays in use is detached after the wait."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    fd = os.open(layer_home.merged, os.O_RDONLY)
    try:
        assert Unmounted.DETACHED == unmount(layer_home.merged, wait=0.01)
        assert not is_mount_root(layer_home.merged)
    finally:
        os.close(fd)


def test_unmount_takes_one_of_a_stack(layer_home):
    """Of two mounts on one target each call takes one off."""
    for _ in range(2):
        mount_overlay(layer_home.merged, layer_home.options(read_only=True), home=layer_home.path)

    outcomes = [unmount(layer_home.merged) for _ in range(3)]
    assert [Unmounted.CLEAN, Unmounted.CLEAN, Unmounted.NOT_MOUNTED] == outcomes


def test_unmount_does_not_follow(layer_home):
    """A link to a mount root is not a mount."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    os.symlink(layer_home.merged, f"{layer_home.path}/link")

    assert Unmounted.NOT_MOUNTED == unmount(f"{layer_home.path}/link")
    assert is_mount_root(layer_home.merged)


# -- the probe -----------------------------------------------------------------------------------


@pytest.fixture(params=["new", "old"])
def kernel(request):
    """Both ways to probe."""
    if request.param == "old":
        request.getfixturevalue("old_kernel")


def test_probe_of_a_mounted_upper(layer_home, kernel):
    """An upper is free before its mount, busy during it and free after it."""
    answers = [upper_is_free(layer_home.upper, layer_home.scratch)]
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    answers.append(upper_is_free(layer_home.upper, layer_home.scratch))
    unmount(layer_home.merged)
    answers.append(upper_is_free(layer_home.upper, layer_home.scratch))

    assert [True, False, True] == answers
    assert [] == os.listdir(layer_home.scratch)


def test_probe_on_ext4(ext4, make_home, kernel):
    """The probe sees a mounted upper on ext4 too."""
    home = make_home(f"{ext4}/home")
    mount_overlay(home.merged, home.options(), home=home.path)

    assert not upper_is_free(home.upper, home.scratch)
    unmount(home.merged)
    assert upper_is_free(home.upper, home.scratch)


def test_probe_of_a_leaked_mount(layer_home, elsewhere, kernel):
    """An upper that is mounted only in another namespace is busy."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    elsewhere()

    assert Unmounted.CLEAN == unmount(layer_home.merged)
    assert not upper_is_free(layer_home.upper, layer_home.scratch)


def test_probe_of_a_detached_mount(layer_home, kernel):
    """An upper of a mount that was detached in use is busy until its last user is gone."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    fd = os.open(layer_home.merged, os.O_RDONLY)
    try:
        unmount(layer_home.merged, wait=0)
        assert not upper_is_free(layer_home.upper, layer_home.scratch)
    finally:
        os.close(fd)
    assert upper_is_free(layer_home.upper, layer_home.scratch, wait=5)


def test_probe_through_a_bind_mount(layer_home, scratch):
    """An upper is busy also where the home is seen through another path."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    os.mkdir(f"{scratch}/view")
    syscalls.mount(layer_home.path, f"{scratch}/view", "none", syscalls.MS_BIND, "")

    assert not is_mount_root(f"{scratch}/view/layer/merged")
    assert not upper_is_free(f"{scratch}/view/layer/diff", f"{scratch}/view/scratch")


def test_probe_of_a_copied_home(layer_home, scratch):
    """A home that was copied with its attributes, after mounts with an index, has free uppers."""
    lowers, upper = layer_home.options().lowers, layer_home.upper
    options = OverlayOptions(
        lowers, upper, f"{layer_home.path}/layer/work", extra=(("index", "on"),)
    )
    mount_overlay(layer_home.merged, options, home=layer_home.path)
    unmount(layer_home.merged)
    assert "trusted.overlay.origin" in os.listxattr(upper)
    subprocess.run(["cp", "-a", layer_home.path, f"{scratch}/copy"], check=True)

    assert upper_is_free(f"{scratch}/copy/layer/diff", f"{scratch}/copy/scratch")


def test_probe_writes_nothing_into_the_layer(layer_home, kernel):
    """A probe leaves entries and attributes of the layer as they are, with either answer."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    Path(f"{layer_home.merged}/common").write_text("copied up")
    before = attributes(layer_home.upper), os.stat(layer_home.upper).st_mtime_ns
    busy = upper_is_free(layer_home.upper, layer_home.scratch, wait=0)
    unmount(layer_home.merged)
    free = upper_is_free(layer_home.upper, layer_home.scratch)

    assert (False, True) == (busy, free)
    assert before == (attributes(layer_home.upper), os.stat(layer_home.upper).st_mtime_ns)


def test_probe_after_a_killed_probe(layer_home):
    """What a killed probe left, a mount included, neither disturbs the next one nor stays."""
    for name in ("upper", "work/work/x", "merged"):
        os.makedirs(f"{layer_home.scratch}/{name}")
    options = OverlayOptions(
        layer_home.options().lowers[:1],
        f"{layer_home.scratch}/upper",
        f"{layer_home.scratch}/work",
        userxattr=in_user_namespace(),
        extra=(("index", "on"),),
    )
    mount_overlay(f"{layer_home.scratch}/merged", options, home=layer_home.path)

    assert upper_is_free(layer_home.upper, layer_home.scratch)
    assert [] == os.listdir(layer_home.scratch)


def test_probe_in_a_long_home(scratch, make_home, kernel):
    """A probe works where paths have more than 300 characters."""
    home = make_home(f"{scratch}/{'a' * 200}/{'b' * 200}")
    assert upper_is_free(home.upper, home.scratch)
    mount_overlay(home.merged, home.options(), home=home.path)

    assert not upper_is_free(home.upper, home.scratch)


def test_probe_that_cannot_answer(layer_home, monkeypatch):
    """Where the kernel switches the index off, the probe raises instead of saying that all is free."""
    real = files.is_directory
    monkeypatch.setattr(files, "is_directory", lambda path: real(path) and "/index" not in path)
    with pytest.raises(OSError) as caught:
        upper_is_free(layer_home.upper, layer_home.scratch)

    assert errno.EOPNOTSUPP == caught.value.errno
