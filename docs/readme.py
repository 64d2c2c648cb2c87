"""Put the results table into README.md; with --check, fail when it is not up to date."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import tables

README = Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.S)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    table = tables.readme()
    fresh, found = MARKED.subn(lambda m: f"{m[1]}{table}\n{m[2]}", text)
    if found != 1:
        print("README.md needs one pair of markers <!-- results --> and <!-- /results -->.", file=sys.stderr)
        return 1
    if "--check" in sys.argv[1:]:
        if fresh != text:
            print("README.md does not show what results/ holds. Run `make readme`.", file=sys.stderr)
            return 1
        return 0
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
