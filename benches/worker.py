"""The process on the other end of a `Worker` in side_by_side.py. It loads once, and answers requests until its input
ends.

This file owns the protocol, which is one JSON object per line, and how such a script ends. It does not know what is
loaded or requested.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def serve(begin: Callable[[], tuple[Json, Callable[[Json], Json]]]) -> int:
    """Calls `begin` to load everything, prints the object that it returns, and then prints the answer to each request
    on standard input."""
    # Libraries also print to standard output, so it is redirected to standard error,
    # and the protocol keeps the original standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready, answer = begin()
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)
    return 0


def end_with(main: Callable[[], int]) -> None:
    """Exits with the code that `main` returns. If `main` raises an exception, exits with 1 and prints the exception as
    the last line, which `run` shows."""
    try:
        sys.exit(main())
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)
