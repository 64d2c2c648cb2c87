"""Write constraints.txt: the versions, in this environment, of all that `.[dev]` pulls in. Run after trying newer ones."""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
HEADER = """# The versions that everything was tested with; `pip install -c constraints.txt`. Written by scripts/constraints.py.
"""


def closure(name: str, extras: frozenset[str], seen: dict[str, frozenset[str]]) -> None:
    """Add the requirements of `name[extras]`, and theirs, to `seen`."""
    name = canonicalize_name(name)
    if extras <= seen.get(name, frozenset()) and name in seen:
        return
    seen[name] = seen.get(name, frozenset()) | extras
    for text in metadata.requires(name) or []:
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in (*extras, "")):
            closure(needed.name, frozenset(needed.extras), seen)


def main() -> None:
    seen: dict[str, frozenset[str]] = {}
    closure("pushforward", frozenset({"dev"}), seen)
    closure("setuptools", frozenset(), seen)
    del seen["pushforward"]
    # A local label (+cpu) names a build of the same version: either may be installed.
    pins = [f"{n}=={re.sub(r'[+].*', '', metadata.version(n))}" for n in sorted(seen)]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n")
    print(f"{len(pins)} pins")


if __name__ == "__main__":
    main()
