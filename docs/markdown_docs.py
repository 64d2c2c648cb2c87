"""Docstrings as Markdown: our simple tables (=== rules) become Markdown's."""

import re


def _cells(line: str, spans: list[tuple[int, int]]) -> list[str]:
    last = len(spans) - 1
    return [line[a : None if i == last else b].strip() for i, (a, b) in enumerate(spans)]


def _table(block: list[str]) -> list[str]:
    """A simple table of reStructuredText, from its first rule to its last."""
    spans = [m.span() for m in re.finditer(r"=+", block[0])]
    rules = [i for i, line in enumerate(block) if re.fullmatch(r"\s*=+( +=+)*\s*", line)]
    head, body = (block[1 : rules[1]], block[rules[1] + 1 : rules[2]]) if len(rules) == 3 else ([], block[1 : rules[1]])
    rows: list[list[str]] = []
    for line in body:
        cells = _cells(line, spans)
        if rows and not cells[0]:  # a line that goes on with the row above
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells)]
        elif any(cells):
            rows.append(cells)
    header = [" ".join(filter(None, column)) for column in zip(*(_cells(h, spans) for h in head))] if head else [""] * len(spans)
    shown = [header, ["---"] * len(spans), *rows]
    return ["", *("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in shown), ""]


def markdown(doc: str) -> str:
    """The docstring with its tables, wherever they stand flush left, written as Markdown tables."""
    out: list[str] = []
    block: list[str] = []
    lines = doc.splitlines()
    for i, line in enumerate(lines):
        rule = re.fullmatch(r"=+( +=+)+\s*", line) is not None
        if block or rule:
            block.append(line)
            # The last rule is the one that a blank line, or the end, follows.
            if rule and len(block) > 1 and (i + 1 == len(lines) or not lines[i + 1].strip()):
                out += _table(block)
                block = []
        else:
            out.append(line)
    return "\n".join(out + block).replace("``", "`")
