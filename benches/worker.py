"""Shared code for worker processes, which the class `Worker` in side_by_side.py starts. A worker loads everything once,
and answers requests until its input ends.

This file implements the protocol, which is one JSON object per line, and the end of a worker. The scripts that use it
determine what is loaded and how requests are answered.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def serve(begin: Callable[[], tuple[Json, Callable[[Json], Json]]]) -> int:
    """Calls `begin` to load everything, and prints the object that it returns. Then prints the answer to each request
    from standard input."""
    # Some libraries print to standard output. Therefore, standard output is redirected
    # to standard error, and only the protocol uses the original standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready, answer = begin()
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)
    return 0


def end_with(main: Callable[[], int]) -> None:
    """Exits with the code that `main` returns. If `main` raises an exception, exits with 1. In this case, the last line
    of the output is the exception, and `run` shows this line."""
    try:
        sys.exit(main())
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)
