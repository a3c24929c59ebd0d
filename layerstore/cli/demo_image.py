"""Owns the image that the demo imports: made on the spot of this machine's own files, or a user's."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from layerstore.cli.output import size

if TYPE_CHECKING:
    from layerstore.cli.demo_scenes import Stage
    from layerstore.store import Store

NAME: Final = "layerstore/demo:latest"
LIBRARY: Final = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
"""Where Python looks for its standard library, below its home."""
_CHUNK: Final = 1 << 20

_LEFT_OUT: Final = (
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "config-*",
)
"""Big parts of the standard library that the demo has no use for."""
_LIBRARY_LINE: Final = re.compile(r"(?:^|\s)(/\S+) \(0x")
"""A line of ldd(1) that has the path of a library, or of the dynamic linker."""

_SHELL: Final = 'echo "Hello from the image\'s own shell. It has:"; for x in /*; do echo "$x"; done'


def write_image(file: IO[bytes]) -> None:
    """Write an image of a shell, this Python, their libraries, and its standard library.

    As a docker-archive that is an OCI layout: two layers, with the command and the environment that
    Python needs. Files belong to root, and have the times that they have here.
    """
    from layerstore.images.model import this_machine
    from layerstore.images.writing import ImageWriter, document

    programs = {"bin/python3": _interpreter(), "bin/sh": os.path.realpath("/bin/sh")}
    libraries = sorted({path for program in programs.values() for path in _libraries(program)})
    programs |= {path.lstrip("/"): path for path in libraries}
    writer = ImageWriter(file)
    for files in (programs.items(), _library_files()):
        with tempfile.TemporaryFile() as layer:
            _pack(layer, sorted(files))
            layer.seek(0)
            writer.add_layer(iter(lambda layer=layer: layer.read(_CHUNK), b""))  # type: ignore[misc]
    places = dict.fromkeys(os.path.dirname(path) for path in libraries)
    machine = this_machine(os.uname().machine)
    config = {
        "architecture": machine.architecture,
        "os": machine.os,
        "config": {
            "Cmd": ["/bin/python3", "-B", "-S"],
            "Env": ["PYTHONHOME=/", "PATH=/bin", f"LD_LIBRARY_PATH={':'.join(places)}"],
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in writer.layers]},
    }
    writer.finish(document(config), machine, [NAME])


def _interpreter() -> str:
    """The interpreter itself rather than the link to it in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _libraries(program: str) -> list[str]:
    """The paths of the shared libraries that a program is started with; none of a static one."""
    try:
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return _LIBRARY_LINE.findall(done.stdout)


def _library_files() -> Iterator[tuple[str, str]]:
    """The standard library: where each file goes, and where it is."""
    source = Path(sysconfig.get_path("stdlib"))
    yield from _below(source, LIBRARY)
    # Compiled modules, which some distributions keep in another directory (lib64).
    compiled = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    if compiled.is_dir() and compiled.parent != source:
        yield from _below(compiled, f"{LIBRARY}/lib-dynload")


def _below(source: Path, target: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        if any(fnmatch.fnmatch(entry.name, pattern) for pattern in _LEFT_OUT):
            continue
        if entry.is_dir():
            yield from _below(Path(entry.path), f"{target}/{entry.name}")
        elif entry.is_file():
            yield f"{target}/{entry.name}", entry.path


def _pack(layer: IO[bytes], files: Sequence[tuple[str, str]]) -> None:
    """The tar of a layer: what links lead to rather than links, and the directories above."""

    def of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = int(info.mtime)
        return info

    known = {""}
    with tarfile.open(
        fileobj=layer, mode="w", format=tarfile.PAX_FORMAT, dereference=True
    ) as archive:
        for name, source in files:
            for parent in reversed([os.fspath(path) for path in Path(name).parents][:-1]):
                if parent not in known:
                    known.add(parent)
                    directory = tarfile.TarInfo(parent)
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(directory)
            archive.add(source, name, recursive=False, filter=of_root)


def run_inside(
    root: Path, command: Sequence[str], environment: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run a command with a mounted layer as its root."""

    def enter() -> None:
        os.chroot(root)
        os.chdir("/")

    return subprocess.run(
        command,
        env=dict(line.partition("=")[::2] for line in environment),
        preexec_fn=enter,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def environment_of(store: Store, layer: str) -> list[str]:
    """The environment that the config of an imported image says."""
    from layerstore.images import records
    from layerstore.images.exporting import settings

    (record,) = records.of_layer(store, layer)
    return [str(line) for line in settings(record.config).get("Env") or []]


def base_image(stage: Stage, store: Store) -> str:
    """Make an image and import it; the id of its top layer."""
    stage.story.scene("2. An image, made of this machine's own files")
    started = time.perf_counter()
    with tempfile.NamedTemporaryFile(prefix="layerstore-image-", suffix=".tar") as file:
        write_image(file)
        file.flush()
        stage.story.say("Packed a shell, this Python and its standard library, with the libraries")
        took, length = time.perf_counter() - started, size(os.path.getsize(file.name))
        stage.story.say(f"that they need, as 'docker save' does: {length}, in {took:.2f} s.")
        done = stage.program("import", file.name)
        top = done.stdout.strip()
        chain = [store.layer(top), *store.ancestors(top)] if done.returncode == 0 else []
        stage.story.check(
            "its two layers are there, each with the digest that the image says",
            len(chain) == 2 and all(layer.diff_id for layer in chain),
        )
        again = stage.program("import", file.name)
        stage.story.check(
            "importing it again makes nothing new",
            again.stdout == done.stdout and "0 new" in again.stderr,
        )
    return top


def given_image(stage: Stage, store: Store, archive: str) -> list[str]:
    """Import a user's image and run its shell; the ids of its layers, the highest first."""
    stage.story.scene("2b. Your image")
    known = {layer.id for layer in store.layers()}
    done = stage.program("import", os.path.abspath(archive))
    stage.story.check(f"{os.path.basename(archive)} was imported", done.returncode == 0)
    if done.returncode:
        return []
    top = done.stdout.strip()
    store.create_read_write("yours", parent=top)
    with store.mounted("yours") as path:
        if os.path.lexists(path / "bin/sh"):
            ran = run_inside(path, ["/bin/sh", "-c", _SHELL], environment_of(store, top))
            stage.story.show((ran.stdout + ran.stderr).splitlines())
            stage.story.check("a command ran in it", ran.returncode == 0 and "Hello" in ran.stdout)
        else:
            stage.story.say("It has no /bin/sh that could say something. It has:")
            stage.story.show(sorted(os.listdir(path)))
    layers = ["yours", top, *(layer.id for layer in store.ancestors(top))]
    return [layer for layer in layers if layer not in known]
