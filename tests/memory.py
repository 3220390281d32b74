"""How much memory a statement takes, in a process of its own."""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import resource, sys
from pathlib import Path
{imports}
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{statement}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def kilobytes(imports: str, statement: str, path: Path) -> int:
    """Return by how many KB the most memory grows while a statement uses `path`.

    What the statement needs is imported before.
    """
    script = _SCRIPT.format(imports=imports, statement=statement)
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
