"""The other end of a `Worker` of side_by_side.py: a process that loads once, and answers requests until there are none.

This file owns the protocol, one JSON object a line, and how such a script ends; not what is loaded or asked.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def serve(begin: Callable[[], tuple[Json, Callable[[Json], Json]]]) -> int:
    """Loads by `begin`, prints what that says of itself, then the answer to each request on standard input."""
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
    """Ends with what `main` returns, or with 1 and a sentence as the last line, which is what `run` shows."""
    try:
        sys.exit(main())
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)
