"""How the scripts of this folder end: what they cannot use is told in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable

from kilograd.errors import InputError


def script(run: Callable[[], object]) -> None:
    """Run a script; a file or name that it cannot use ends it in one line, with exit code 2."""
    try:
        run()
    except InputError as e:
        said = str(e)
    except FileNotFoundError as e:
        said = f"{e.filename}: no such file"
    else:
        return
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)
