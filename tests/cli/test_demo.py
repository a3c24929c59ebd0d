"""The demo is true, cleans up after itself, and says so when it cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import Store
from layerstore.cli import demo_image, demo_scenes
from layerstore.cli.demo import Story
from layerstore.cli.output import Output
from tests.cli.running import Program, run


@pytest.mark.root
def test_the_demo_is_true(bare: Path) -> None:
    """Every claim of the demo holds, its words are there to read, and nothing is left."""
    done = run(["demo"], TMPDIR=str(bare))
    assert done.code == 0, done.out + done.err
    assert "NOT TRUE" not in done.out
    assert "LAYERSTORE_FAILPOINT=" in done.out
    assert "layer.create.undone" in done.out
    assert list(bare.iterdir()) == []


@pytest.mark.root
def test_the_demo_for_programs(bare: Path) -> None:
    """With --json the demo is one document: its claims, what recovery did, and timings.

    With an image of the user's, such as the demo's own, that is imported and run as well.
    """
    made = run(["demo", "--write-image", str(bare / "image.tar")])
    assert made.code == 0, made.err
    document = run(["demo", "--json", str(bare / "image.tar")], TMPDIR=str(bare)).json
    assert [path.name for path in bare.iterdir()] == ["image.tar"]
    assert document["ok"] is True
    assert len(document["checks"]) >= 15
    assert all(check["true"] for check in document["checks"])
    assert "a command ran in it" in [check["claim"] for check in document["checks"]]
    assert {"create", "remove"} <= set(document["median_ms"])
    assert document["settled"]


@pytest.mark.root
def test_the_demo_can_be_kept(bare: Path) -> None:
    """--keep leaves a sound store with the demo's layers, where --home says."""
    done = run(["demo", "--keep", "--home", str(bare / "kept")])
    assert done.code == 0, done.out + done.err
    kept = Program(bare / "kept")
    layers = kept("ls", "-q").out.split()
    assert len(layers) == 4
    assert set(layers) > {"app", "greeting"}
    assert kept("audit").code == 0


@pytest.mark.root
def test_a_broken_image_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's image that cannot be imported is a claim that is not true."""
    (home.parent / "image.tar").write_bytes(b"")
    story = Story(Output())
    with Store.open(home) as store:
        stage = demo_scenes.Stage(home, story)
        assert [] == demo_image.given_image(stage, store, str(home.parent / "image.tar"))
    assert not story.true
    assert "NOT TRUE  image.tar was imported" in capsys.readouterr().out


@pytest.mark.root
def test_the_demo_respects_what_is_there(bare: Path) -> None:
    """A --home that is not empty is refused and left as it was."""
    (bare / "precious").touch()
    done = run(["demo", "--home", str(bare)])
    assert done.code == 16
    assert [path.name for path in bare.iterdir()] == ["precious"]


@pytest.mark.root
def test_the_demo_in_a_container(bare: Path) -> None:
    """Where the temporary directory is an overlay itself, as in a container, it brings a tmpfs."""
    from layerstore.fs.mount import OverlayOptions, mount_overlay

    for name in ("lower", "upper", "work", "tmp"):
        (bare / name).mkdir()
    options = OverlayOptions((str(bare / "lower"),), str(bare / "upper"), str(bare / "work"))
    mount_overlay(str(bare / "tmp"), options, home=str(bare))
    done = run(["demo"], TMPDIR=str(bare / "tmp"))
    assert done.code == 0, done.out + done.err
    assert list((bare / "tmp").iterdir()) == []
    kept = run(["demo", "--keep"], TMPDIR=str(bare / "tmp"))
    assert kept.code == 1
    assert "--home DIR" in kept.err
    assert list((bare / "tmp").iterdir()) == []


def test_a_claim_that_is_not_true_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A claim that does not hold is shown as such and makes the whole untrue."""
    story = Story(Output())
    story.check("the sky is blue", True)
    assert story.true
    story.check("the sky is green", False)
    assert not story.true
    assert "NOT TRUE" in capsys.readouterr().out
