"""Quotas and labels for real, in a second kernel, whatever this machine's can do.

Debian's `user-mode-linux` is a kernel that runs as a program. Its root is this machine's, read-only,
so it has this checkout and this Python; its two disks are files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.second_kernel import labels, quotas

ROOT = Path(__file__).resolve().parent.parent.parent
INIT = Path(__file__).with_name("init.sh")
NEEDS = {
    "linux.uml": "user-mode-linux",
    "mkfs.xfs": "xfsprogs",
    "busybox": "busybox-static",
    "secilc": "secilc",
}

pytestmark = [
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.root,
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"needs Debian's {package}")
        for program, package in NEEDS.items()
    ),
]


def boot(disks: Path, *words: str) -> str:
    """Boot the second kernel, let it run a module of these tests, and return what it said."""
    xfs, ext4 = disks / "xfs", disks / "ext4"
    for disk, size, make in (
        (xfs, 320, ("mkfs.xfs", "-q")),
        (ext4, 128, ("mkfs.ext4", "-q", "-F", "-O", "project,quota")),
    ):
        with disk.open("wb") as file:
            file.truncate(size << 20)
        subprocess.run([*make, str(disk)], check=True)
    command = [
        "linux.uml",
        "mem=384M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"ubda={xfs}",
        f"ubdb={ext4}",
        f"uml_dir={disks}/",
        "con=null",
        "con0=null,fd:1",
        "con1=null",
        "security=selinux selinux=1 enforcing=0",
        f"init={INIT}",
        # What the kernel does not know becomes the environment of its first process.
        f"LAYERSTORE_ROOT={ROOT}",
        f"LAYERSTORE_PYTHON={sys.executable}",
        f'"LAYERSTORE_RUN={" ".join(words)}"',
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(disks)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    return done.stdout


def judge(said: str, checks: list[Callable[[Path], None]]) -> None:
    """Every check was done, and none failed."""
    found: dict[str, Any] = {
        line["check"]: line for line in map(json.loads, re.findall(r"^CHECK (.*?)\r?$", said, re.M))
    }
    assert [function.__name__ for function in checks] == list(found), said[-3000:]
    failures = [f"{name}: {line['failure']}" for name, line in found.items() if line["failure"]]
    assert not failures, "\n".join(failures)
    assert re.search(r"^END\r?$", said, re.M), said[-3000:]


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_quotas_in_a_second_kernel(kind: str, bare: Path) -> None:
    """Each check of `quotas` holds on a file system of this kind that has project quotas."""
    judge(boot(bare, "tests.second_kernel.quotas", f"/run/{kind}"), quotas.CHECKS)


def test_labels_in_a_second_kernel(bare: Path, tmp_path: Path) -> None:
    """Each check of `labels` holds in a kernel with SELinux."""
    policy = tmp_path / "policy"  # not in `bare`: the second kernel has its own /dev
    source = Path(__file__).with_name("labels.cil")
    subprocess.run(["secilc", "-c", "33", "-o", policy, "-f", os.devnull, source], check=True)
    judge(boot(bare, "tests.second_kernel.labels", "/run/xfs", str(policy)), labels.CHECKS)
