"""Where every command begins.  As little as possible is imported before signals are heard."""

import os
import sys

from kilograd import interruption


def main() -> None:
    """Run the command line."""
    interruption.listen()
    _open_closed_streams()
    from kilograd.cli import main as command_line  # half a second

    command_line()


def _open_closed_streams() -> None:
    """Give a stream that is closed (`>&-`) to nobody: a file would get its number, and its text."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


if __name__ == "__main__":
    main()
