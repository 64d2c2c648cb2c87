"""The page: every part of an exploration as pictures, with how to read them."""

from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from .. import store
from ..report.words import duration, number, with_spread
from . import pictures as draw

if TYPE_CHECKING:
    from .exploration import Exploration

__all__ = ["render"]


@dataclass
class Section:
    """One heading of the page."""

    key: str
    title: str
    read: str
    """How to read the pictures."""
    figures: list[draw.Figure] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, figure, what it says)."""
    table: tuple[list[str], list[list[str]]] | None = None


def render(found: "Exploration") -> str:
    """The page as text: one file that makes no request."""
    import jinja2
    from markupsafe import Markup

    from .exploration import PARTS

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((resources.files("pushforward.explore") / "page.html.j2").read_text(encoding="utf-8"))
    style = [(resources.files(f"pushforward.{home}") / "style.css").read_text(encoding="utf-8") for home in ("report", "explore")]
    lens = found.lens
    source = str((lens.data.source or {}).get("source", "records given in memory"))
    return template.render(
        style=Markup("\n".join(style)),  # our own
        title=f"Inside {found.model} on {source}",
        lead=_lead(found),
        sections=[s for s in _sections(found) if s is not None],
        skipped=[(PARTS[k], why) for k, why in found.skipped.items()],
        facts=[
            ("Model", f"{type(lens.model).__name__}, " + ", ".join(f"{k} {v}" for k, v in _config(lens.model).items())),
            ("Data", source),
            ("Records looked at", f"{len(lens.train):,} training · {len(lens.held):,} {lens.held_name}"),
            ("One record", str(lens.data.spec)),
            *([("Decoded images", "the mean of p(x | z)")] if found.means else []),
            ("Seed", str(found.seed)),
            ("Made in", duration(found.seconds)),
        ],
        versions=store.versions(),
    )


def _config(model: Any) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults."""
    config = model.describe()["config"]
    standard = {name: p.default for name, p in type(model).hyperparameters().items()}
    changed = {k: v for k, v in config.items() if not isinstance(v, dict) and v != standard.get(k) and _tuple(v) != standard.get(k)}
    return changed or {"all hyperparameters": "at their defaults"}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _lead(e: "Exploration") -> list[tuple[str, str, str]]:
    out = []
    if e.scatter is not None and e.scatter.accuracy is not None:
        out.append(("Codes tell classes", f"{e.scatter.accuracy.value:.0%}", "of held-out records, by their 5 nearest codes"))
    if e.traversal is not None:
        out.append(("Active dimensions", f"{e.traversal.active} of {len(e.traversal.spread)}", "whose codes vary (variance above 0.01)"))
    if e.gaps is not None:
        out.append(("Decoded from gaps", f"{number(e.gaps.ratio)} ×", "as far from real records as these are from each other"))
    if e.lipschitz is not None:
        out.append(("Steepness of the decoder", number(e.lipschitz.relative), "at the median, codes and records scaled to spread 1"))
    return out


def _sections(e: "Exploration") -> list[Section | None]:
    return [
        _walks(e),
        _sums(e),
        _grid(e),
        _scatter(e),
        _traversal(e),
        _edits(e),
        _probe(e),
        _gaps(e),
        _lipschitz(e),
        _neighbours(e),
        _shift(e),
    ]


def _walks(e: "Exploration") -> Section | None:
    if e.interpolation is None:
        return None
    s = Section(
        "walks",
        "Walks between records",
        "Each row begins and ends with a record of your data; beside it stands its reconstruction, and between the two what is "
        "decoded on the way from one code to the other. Steps that look like records, and change little by little, speak for codes "
        "without holes. The line passes nearer to the centre than codes do; the arc keeps their distance from it.",
    )
    titles = {"linear": "Along the line", "spherical": "Along the sphere"}
    for walk in e.interpolation:
        s.figures += draw.walks(e.lens, walk, titles[walk.method])
    return s


def _sums(e: "Exploration") -> Section | None:
    if e.arithmetic is None:
        return None
    s = Section(
        "sums",
        "Sums of codes",
        "The code of the third record, changed by what tells the first from the second. "
        + ("Both are of one class, so that a − b is a matter of style." if e.lens.classes else ""),
    )
    s.figures = draw.sums(e.lens, e.arithmetic)
    return s


def _grid(e: "Exploration") -> Section | None:
    g = e.grid
    if g is None:
        return None
    a, b = g.dims
    total = g.codes.shape[1]
    where = (
        "equally probable steps of a standard normal"
        if g.through == "normal"
        else "equally many codes apart, because these are not standard normal"
    )
    rest = (
        ""
        if total == 2
        else f" The other {total - 2} dimensions stay at their mean, so a code of many dimensions shows little of what it holds here."
    )
    s = Section("grid", "The square of codes", f"Dimension {a + 1} grows to the right, dimension {b + 1} upwards, {where}.{rest}")
    s.figures = draw.square(e.lens, g)
    return s


def _scatter(e: "Exploration") -> Section | None:
    c = e.scatter
    if c is None:
        return None
    s = Section(
        "scatter", "Codes by class" if c.classes else "Codes", f"Every point is the code of a {e.lens.held_name} record. Shown: {c.how}."
    )
    s.figures = draw.plane(c)
    if c.accuracy is not None:
        s.facts.append(
            ("Nearest neighbours", with_spread(c.accuracy), "share of held-out records whose class the 5 nearest training codes name")
        )
    if c.silhouette is not None:
        s.facts.append(
            ("Silhouette", number(c.silhouette), "1 for classes far apart, 0 where they overlap, below 0 where they mix; in all dimensions")
        )
    return s


def _traversal(e: "Exploration") -> Section | None:
    t = e.traversal
    if t is None:
        return None
    some = "" if len(t.dims) == len(t.spread) else f" The {len(t.dims)} most variable of {len(t.spread)} dimensions are shown."
    s = Section(
        "traversal",
        "One dimension at a time",
        f"One record; in each row one dimension of its code goes from its 1\u00a0% to its 99\u00a0% quantile over "
        f"records.{some} A row that does not change is a dimension that the decoder ignores.",
    )
    s.figures = draw.traversal(e.lens, t)
    s.facts = [
        (
            "Active dimensions",
            f"{t.active} of {len(t.spread)}",
            "in which the codes' variance over records is above 0.01 (Burda et al. 2016)",
        )
    ]
    return s


def _edits(e: "Exploration") -> Section | None:
    if e.edits is None:
        return None
    s = Section(
        "edits",
        "Attributes, added and removed",
        "Two records, moved along the direction of an attribute: 0 is the reconstruction, +1 adds what the mean record with the "
        "attribute has more than the mean record without it, −1 takes that away. The difference of means moves whatever goes with the "
        "attribute; the normal of a logistic regression only what tells it.",
    )
    for found in e.edits:
        s.figures += draw.edits(e.lens, found)
    for a in {id(x.attribute): x.attribute for x in e.edits}.values():
        shown = "–" if a.accuracy is None else f"{a.accuracy:.0%}"
        s.facts.append((a.name, shown, f"balanced accuracy on held-out codes; {a.count:,} of {a.total:,} training records have it"))
    return s


def _probe(e: "Exploration") -> Section | None:
    p = e.probe
    if p is None:
        return None
    counts = sorted({k for row in p.accuracy.values() for k in row})
    s = Section(
        "probe",
        "What a linear reader finds",
        f"Held-out accuracy of a logistic regression that reads the class ({p.classes} of them) from the codes, after so many "
        "labelled records. Codes are worth having where they beat the records themselves with few labels; the untrained row says what the "
        "network's form gives without learning.",
    )
    s.table = (
        ["features", *(f"{k:,} labels" for k in counts)],
        [[name, *(with_spread(row[k]) for k in counts)] for name, row in p.accuracy.items()],
    )
    return s


def _gaps(e: "Exploration") -> Section | None:
    g = e.gaps
    if g is None:
        return None
    s = Section(
        "gaps",
        "Between the clusters",
        "Decoded half-way between two clusters of codes, the emptiest places first; beneath each the training record nearest to it. "
        "Where a decoder was never asked, it may answer with no record at all. A blurred mean is near to many records, so look before you "
        "trust a small figure.",
    )
    s.figures = draw.gap(e.lens, g)
    s.facts = [
        ("From gaps", f"{number(g.ratio)} ×", "distance to the nearest training record, over that of a held-out record, at the median"),
        ("From codes", f"{number(g.at_codes)} ×", "the same for reconstructions of held-out records"),
    ]
    return s


def _lipschitz(e: "Exploration") -> Section | None:
    found = e.lipschitz
    if found is None:
        return None
    s = Section(
        "lipschitz",
        "How steep the decoder is",
        f"The largest singular value of the decoder's Jacobian at {len(found.values)} codes: how far the record moves, at most, for a "
        "small step of the code.",
    )
    s.figures = [draw.steepness(found)]
    s.facts = [
        ("Median", number(found.median), "in the model's own values of records, per unit of code"),
        ("95th percentile", number(found.high), "the steepest places"),
        (
            "Median, scaled",
            number(found.relative),
            "with codes and records scaled to spread 1: many times 1 means that small steps change the record altogether",
        ),
    ]
    return s


def _neighbours(e: "Exploration") -> Section | None:
    n = e.neighbours
    if n is None:
        return None
    s = Section(
        "neighbours",
        "Samples and their nearest training records",
        "Not chosen: the first samples of the seed. Beneath each the training record nearest to it, by "
        + ("pixels" if e.lens.data.spec.kind == "image" else "standardised columns")
        + ". A model that copies shows the same record twice; pushforward evaluate tests for it.",
    )
    s.figures = draw.pairs(e.lens, n.samples, n.nearest, "sample", "nearest training record")
    s.facts = [
        (
            "Distance",
            f"{number(float(n.distance.median()))} ×",
            "that of a held-out record to its nearest training record, at the median; far below 1 for copies",
        )
    ]
    return s


def _shift(e: "Exploration") -> Section | None:
    p = e.shift
    if p is None:
        return None
    s = Section(
        "shift",
        "One pixel to the left",
        f"Hardly anyone minds an image that moves by one pixel (here 1/{p.x.shape[3]} of its width), and a squared error does: here is how "
        "much of the way to another image the shift counts for. Structural similarity and the features of a network may take less notice. "
        "Bear it in mind when you read the squared error of a reconstruction.",
    )
    s.figures = draw.shift(e.lens, p)
    rows = [("one pixel to the left", p.shift), ("reconstruction", p.reconstruction), ("another image", p.other)]
    s.table = (
        ["compared with the image", "squared error per pixel", "SSIM", "squared distance of features"],
        [[what, number(c.mse), number(c.ssim), number(c.features)] for what, c in rows if c is not None],
    )
    s.facts = [
        (what, f"{p.share(key):.0%}", "of the way to another image")
        for key, what in (("mse", "Squared error"), ("ssim", "1 − SSIM"), ("features", f"Features ({p.space.split(' of ')[0]})"))
    ]
    return s
