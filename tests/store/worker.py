"""A second process on a store: runs the statements that a test sends, and stops where it is told to.

Each line of stdin is `{"do": source}`: an expression, whose value is the answer, or statements.
Answers are lines of stdout: `{"value": …}`, `{"error": class, "message": …}`, or, where the process
has come to a trace point that `stop_at` named, `{"stopped": point}`; it then waits for one line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import layerstore
from layerstore import Store
from layerstore.audit import audit
from layerstore.fs.trace import set_trace

Globals = dict[str, Any]


def _say(**answer: Any) -> None:
    print(json.dumps(answer, default=str), flush=True)


def stop_at(point: str, times: int = 1) -> None:
    """Stop the next time (or the n-th) that a trace point whose name starts so is passed."""
    left = times

    def hook(passed: str) -> None:
        nonlocal left
        if passed.startswith(point):
            left -= 1
            if left == 0:
                _say(stopped=passed)
                sys.stdin.readline()

    set_trace(hook)


def in_threads(*sources: str) -> list[str]:
    """Run expressions at once, a thread for each; their values or errors as text, in order."""
    results = [""] * len(sources)

    def body(index: int, source: str) -> None:
        try:
            results[index] = str(eval(source, KNOWN))
        except Exception as error:  # noqa: BLE001 - the test judges
            results[index] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=body, args=pair) for pair in enumerate(sources)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


KNOWN: Globals = {
    "Store": Store,
    "audit": audit,
    "in_threads": in_threads,
    "layerstore": layerstore,
    "os": os,
    "stop_at": stop_at,
}


def _run(source: str) -> Any:
    try:
        code = compile(source, "<test>", "eval")
    except SyntaxError:
        exec(compile(source, "<test>", "exec"), KNOWN)
        return None
    return eval(code, KNOWN)


def main() -> None:
    """Answer until stdin ends."""
    KNOWN["home"] = sys.argv[1]
    _say(value=os.getpid())
    for line in iter(sys.stdin.readline, ""):
        try:
            _say(value=_run(json.loads(line)["do"]))
        except BaseException as error:  # noqa: BLE001 - the test judges
            _say(error=type(error).__name__, message=str(error))


if __name__ == "__main__":
    main()
