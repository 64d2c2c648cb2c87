"""The report: self-contained, escaped, legible, and saying of every likelihood what it is."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import Duel, Gauss

from pushforward.compare import Comparison, Row, compare, rank
from pushforward.data import Data, load_data
from pushforward.data.spec import DataSpec
from pushforward.errors import RunError
from pushforward.figures import Evaluation
from pushforward.metrics import Estimate, mean_estimate
from pushforward.model import ClosedFormModel
from pushforward.report import differences, leaderboard, plots, rewrite, trilemma, words, write_report
from pushforward.report.svg import Chart
from pushforward.rng import Rng


class Resample(ClosedFormModel):
    """Draws training records again: samples of any kind of data, with no likelihood."""

    name = "resample"

    def __init__(self):
        super().__init__()

    def _build(self, spec: DataSpec) -> None: ...

    def _estimate(self, data, training, run) -> None:
        self.kept = data.train.tensor()[:200]

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self.kept[rng.randint(len(self.kept), n)]


class Page(HTMLParser):
    """What a page asks for and how it nests."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def check_self_contained(text: str) -> Page:
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not page.all("script") + page.all("iframe") + page.all("object")
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"
    assert len(page.all("h1")) == 1
    return page


def estimate(value: float, half: float = math.nan) -> Estimate:
    return Estimate(float(value), float(value - half), float(value + half), half / 1.959964, 100, "t")


def figures(kind: str = "exact", half: float = math.nan, **values) -> Evaluation:
    """An evaluation with these figures, each with an interval of `half` on either side."""
    base = {"density": 0.9, "coverage": 0.8, "precision": 0.7, "recall": 0.6, "frechet": 0.5, "samples_per_second": 100.0, "nfe": 1.0}
    real = {"density": 1.0, "coverage": 0.97, "precision": 0.9, "recall": 0.9, "frechet": 0.1}
    found = {**base, "parameters": 5.0, **values}
    return Evaluation(
        "m",
        kind,
        {k: v if isinstance(v, Estimate) else estimate(v, half) for k, v in found.items() if v is not None},
        {k: estimate(v) for k, v in real.items()},
        base_measure="" if kind == "none" else "density",
        features="pixels",
        yardstick="unseen records",
        held_out=10,
        samples=10,
    )


def comparison(rows: list[Row], data: Data, seeds: tuple[int, ...] = (0,)) -> Comparison:
    return Comparison(rank(rows), data, Path("nowhere"), {"minutes": 1.0}, seeds, 3.0)


def row(label: str, evaluation: Evaluation | None, error: str | None = None, seed: int = 0) -> Row:
    return Row(label, label, {"width": 3}, seed, Path("nowhere/run"), f"pushforward fit {label}", f"pf.{label}()", evaluation, error)


@pytest.fixture(scope="module")
def points() -> Data:
    return load_data(np.random.default_rng(0).normal(size=(200, 2)))


# -- whole pages ----------------------------------------------------------------------------------------------------


def test_page_of_points_holds_scatters_densities_and_curves(points, tmp_path):
    found = compare([Gauss(), Duel()], points, steps=60, seeds=1, workers=0, out=tmp_path / "c", n=20, batch_size=32, progress=False)
    text = (found.path / "report.html").read_text()
    page = check_self_contained(text)
    alts = [image["alt"] for image in page.all("img")]
    assert alts == [
        "Real held-out records: x1 across, x2 up",
        "Samples of gauss: x1 across, x2 up",
        "Density of gauss",
        "Samples of duel: x1 across, x2 up",
    ]
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert any(label.startswith("Losses of gauss over training time: training ends at") for label in labels)
    assert any(label.startswith("Losses of duel over training time: critic ends at") for label in labels)
    assert "pushforward fit gauss --data DATA --steps 60 --batch-size 32 --seed 0" in text
    assert points.fingerprint() in text


def test_page_of_images_shows_tiles_beside_held_out_ones(tmp_path):
    found = compare([Resample()], "digits", features=["pca"], steps=1, seeds=1, workers=0, out=tmp_path / "c", n=20, progress=False)
    page = check_self_contained((found.path / "report.html").read_text())
    assert [image["alt"] for image in page.all("img")] == [
        "40 real held-out images",
        "40 images drawn by resample",
        "10 samples of resample; beneath each the nearest training record in pixels",
    ]
    assert "One generative model on digits" in page.text
    pictures = [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in page.all("img")]
    # 8 x 5 images of 8 x 8 pixels, a pixel apart; then 10 x 2
    assert [p.size for p in pictures] == [(71, 44), (71, 44), (89, 17)]
    copied = np.asarray(pictures[2])
    assert (copied[:8] == copied[9:]).all()  # a resampler's nearest training records are its samples


def test_page_of_a_mixed_table_shows_its_columns(tmp_path):
    g = np.random.default_rng(0)
    height = g.normal(170, 10, 300)
    frame = pd.DataFrame({"height <cm>": height, "weight": height - 100 + g.normal(0, 5, 300), "kind": g.choice(["a & b", "c"], 300)})
    found = compare([Resample()], frame, steps=1, seeds=1, workers=0, out=tmp_path / "c", n=20, progress=False)
    text = (found.path / "report.html").read_text()
    page = check_self_contained(text)
    assert page.all("img")[0]["alt"] == "Real held-out records: height <cm> across, weight up"
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert sum(label.startswith("Distribution of") for label in labels) == 3
    assert "a &amp; b" in text


def test_what_users_wrote_cannot_become_markup(points, tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    points = Data(points.schema, points.train, points.validation, points.test, {"source": evil, "options": {}})
    rows = [row(evil, figures(log_prob=estimate(-1.0, 0.1))), row("b", None, f"it said {evil}")]
    page = check_self_contained(write_report(comparison(rows, points), tmp_path / "r.html").read_text())
    assert page.all("img")[0]["src"] != "x"
    assert any(evil in text for text in page.text)


def test_page_without_any_success_still_says_why(points, tmp_path):
    text = write_report(comparison([row("a", None, "no memory")], points), tmp_path / "r.html").read_text()
    page = check_self_contained(text)
    assert "Did not finish" in page.text
    assert any("no memory" in t for t in page.text)


def test_page_says_of_each_likelihood_what_it_is(points, tmp_path):
    rows = [
        row("a", figures("bound", log_prob=estimate(-1.0, 0.1), bits_per_dim=estimate(2.0, 0.01))),
        row("b", figures("exact", log_prob=estimate(-2.0, 0.1), bits_per_dim=estimate(3.0, 0.01))),
        row("c", figures("none")),
    ]
    text = write_report(comparison(rows, points), tmp_path / "r.html").read_text()
    words = " ".join(" ".join(Page(text).text).split())
    assert "≥ −1.00 ± 0.10 lower bound" in words
    assert "≤ 2.000 ± 0.010" in words
    assert "−2.00 ± 0.10 exact" in words
    assert "no likelihood" in words
    assert "Never read a bound as an exact value" in words
    # nobody is declared best where a bound leaves it open
    assert not re.search(r'data-name="(log p\(x\)|bits/dim)" class="best"', text)
    exact = comparison([rows[1], row("d", figures("exact", log_prob=estimate(-3.0, 0.1)))], points)
    assert len(re.findall(r'data-name="log p\(x\)" class="best"', write_report(exact, tmp_path / "e.html").read_text())) == 1


def test_density_beyond_that_of_real_records_is_not_called_best(points, tmp_path):
    rows = [
        row("crowded", figures("none", density=1.4)),
        row("good", figures("none", density=0.9)),
        row("poor", figures("none", density=0.2)),
    ]
    text = write_report(comparison(rows, points), tmp_path / "r.html").read_text()
    assert re.findall(r'data-name="quality" class="best"><span><b>([\d.]+)<', text) == ["0.900"]
    sure = [row(r.label, figures("none", half=0.05, density=r.evaluation.value("density"))) for r in rows]
    text = write_report(comparison(sure, points), tmp_path / "s.html").read_text()
    assert re.findall(r'data-name="quality" class="best"><span><b>([\d.]+)<', text) == ["0.900"]


# -- the terminal ---------------------------------------------------------------------------------------------------


def test_terminal_marks_bounds_and_failures(points):
    rows = [
        row("a", figures("bound", log_prob=estimate(-1.0, 0.1))),
        row("b", figures("exact", log_prob=estimate(-2.0, 0.1))),
        row("dead", None, "out of [memory]", 0),
        row("dead", None, "out of [memory]", 1),
    ]
    text = str(comparison(rows, points, (0, 1)))
    assert "≥ −1.00 ± 0.10 lower bound" in text
    assert "−2.00 ± 0.10 exact" in text
    assert text.index("lower bound") < text.index("exact")
    assert "dead (seeds 0, 1) failed: out of [memory]" in text
    assert "real records" in text


def entry(key: str, *runs: Evaluation) -> leaderboard.Entry:
    return leaderboard.Entry(key, f"model {key}", [row(f"model {key}", e, seed=i) for i, e in enumerate(runs)])


def test_several_seeds_give_their_mean_and_interval():
    e = entry("A", *(figures(log_prob=v) for v in (1.0, 2.0, 6.0)))
    # mean 3, variance (4 + 1 + 9) / 2 = 7, and t of 2 degrees of freedom at 97.5 % is 4.302653
    found = e.figure("log_prob")
    assert found.value == 3.0
    assert found.high - 3.0 == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert e.figure("kl") is None
    assert entry("A", figures("exact"), figures("bound")).kind == "bound"


def test_the_wider_interval_is_shown_and_both_where_they_differ_much():
    alike = entry("A", *(figures(coverage=estimate(v, 0.2)) for v in (0.5, 0.5, 0.5001)))
    assert leaderboard.half_width(alike.figure("coverage")) == pytest.approx(0.2)
    seeds, records = alike.both("coverage")
    assert seeds < 0.001
    assert records == pytest.approx(0.2)
    # s = 0.1 over 3 seeds: half-width 4.302653 * 0.1 / sqrt(3) = 0.248
    near = entry("A", *(figures(coverage=estimate(v, 0.2)) for v in (0.4, 0.5, 0.6)))
    assert leaderboard.half_width(near.figure("coverage")) == pytest.approx(0.2484, abs=1e-4)
    assert near.both("coverage") is None


def test_intervals_stay_within_what_a_figure_can_be_and_speeds_are_geometric():
    e = entry("A", figures(coverage=0.9, samples_per_second=10.0), figures(coverage=1.0, samples_per_second=1000.0))
    assert e.figure("coverage").high == 1.0
    assert e.figure("samples_per_second").value == pytest.approx(100.0)
    assert e.figure("samples_per_second").low > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.0, "0.000"), (-1.23456, "−1.23"), (1234.5, "1,234"), (1234567.0, "1.23e6"), (0.00012, "1.20e−4")],
)
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (-102.7412, 0.7613, "−102.74 ± 0.76"),
        (2.5, 0.03, "2.500 ± 0.030"),
        (1234.56, 78.9, "1,235 ± 79"),
        (3.14159, None, "3.14"),
        (2.15, 1e-9, "2.1500 ± 0.0000"),
        (0.0, 2.4e-5, "0 ± 2.4e−5"),
    ],
)
def test_values_have_the_decimals_that_their_spread_allows(value, spread, text):
    assert words.with_spread(estimate(value, math.nan if spread is None else spread)) == text


def test_a_share_and_its_interval_stay_within_what_a_share_can_be():
    assert words.plainly("copied_share", Estimate(-0.012, -0.27, 0.207)) == ("0.0%", "0.0 to 20.7%")
    assert words.plainly("copied_share", Estimate(0.241, -1.03, 1.2)) == ("24.1%", "0.0 to 100.0%")
    assert words.plainly("copies", Estimate(0.0)) == ("0.0%", "")


@pytest.mark.parametrize(("value", "text"), [(1.5e6, "1.5 M"), (34_000, "34 k"), (8967.9, "8,968"), (0.123, "0.12"), (None, "–")])
def test_counts(value, text):
    assert words.counted(value) == text


# -- differences ----------------------------------------------------------------------------------------------------


def test_holm_corrects_step_by_step():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, each at least the one before (Holm 1979)
    assert differences.holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    # 0.011 x 2 would fall below 0.01 x 3: no p-value may be smaller than that of a clearer difference
    assert differences.holm([0.011, 0.01, 0.9]) == pytest.approx([0.03, 0.03, 0.9])
    assert differences.holm([]) == []


def test_a_difference_is_welchs_where_seeds_are_all_there_is():
    from scipy import stats

    a, b = (0.50, 0.52, 0.57), (0.61, 0.60, 0.66)
    one, other = (entry(k, *(figures(coverage=v) for v in values)) for k, values in (("A", a), ("B", b)))
    found = differences.verdicts([one, other], "coverage")["A", "B"]
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.state == "worse"
    assert found.difference == pytest.approx(-0.09333, abs=1e-5)


def test_held_out_records_widen_what_seeds_alone_would_tell_apart():
    a, b = (0.50, 0.51, 0.52), (0.60, 0.61, 0.62)
    for half, state in ((0.001, "worse"), (0.3, "open")):
        one, other = (entry(k, *(figures(coverage=estimate(v, half)) for v in values)) for k, values in (("A", a), ("B", b)))
        found = differences.verdicts([one, other], "coverage")
        assert found["A", "B"].state == state
        assert found["B", "A"] == found["A", "B"].turned()
    assert "A cannot be told apart from B in coverage" in found["A", "B"].text()


def test_tests_are_calibrated_and_err_towards_not_telling_apart():
    # Under equality at most 5 % of comparisons of three seeds find a difference: 12 of 400 have a chance of 0.3 % under 1.5 % ... and
    # Welch with two or three degrees of freedom stays below its level. 400 draws of rate 0.05 exceed 34 with a chance of 0.1 %.
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        values = (0.5 + 0.02 * torch.randn(2, 3, generator=generator, dtype=torch.float64)).tolist()
        one, other = (entry(k, *(figures(coverage=v) for v in found)) for k, found in zip("AB", values))
        hits += differences.verdicts([one, other], "coverage")["A", "B"].state != "open"
    assert hits <= 34


def test_bounds_are_held_only_to_what_they_guarantee():
    exact = entry("A", *(figures("exact", half=0.1, log_prob=v) for v in (-10.0, -10.1)))
    low = entry("B", *(figures("bound", half=0.1, log_prob=v) for v in (-20.0, -20.1)))
    high = entry("C", *(figures("bound", half=0.1, log_prob=v) for v in (-5.0, -5.1)))
    none = entry("D", figures("none"))
    found = differences.verdicts([exact, low, high, none], "log_prob")
    assert found["C", "A"].state == "better"  # its log p is at least this
    assert found["A", "B"].state == "open"  # the bound may lie far below
    assert "a lower bound may lie below an exact value" in found["A", "B"].text()
    assert found["B", "C"].state == "apart"
    assert "both are lower bounds, whose gaps are unknown" in found["B", "C"].text()
    assert not [pair for pair in found if "D" in pair]
    assert differences.best([exact, low, high], "log_prob") == []
    assert (
        differences.indistinct([exact, low, high], "log_prob")
        == "Log-likelihood: model C beats model A. No other difference may be claimed."
    )


def test_likelihoods_are_compared_record_by_record():
    g = torch.Generator().manual_seed(0)
    common = 10 * torch.randn(3, 400, generator=g, dtype=torch.float64)  # some records are hard for every model

    def made(key: str, better: float) -> leaderboard.Entry:
        runs = []
        for seed in range(3):
            values = common[seed] + better + 0.1 * torch.randn(400, generator=g, dtype=torch.float64)
            e = figures(log_prob=mean_estimate(values))
            e.log_probs = values
            runs.append(e)
        return entry(key, *runs)

    one, other = made("A", 0.0), made("B", 0.1)
    found = differences.verdicts([one, other], "log_prob")["B", "A"]
    # the difference of 0.1 has a standard error of sqrt(2) 0.1 / sqrt(1200) = 0.004 by record, and of 0.5 as a difference of two means
    assert found.state == "better"
    assert found.difference == pytest.approx(0.1, abs=0.02)
    for e in other.done:
        e.log_probs = None
    assert differences.paired(one, other) == []
    assert differences.verdicts([one, other], "log_prob")["B", "A"].state == "open"


def test_likelihoods_of_different_measures_or_conditions_are_never_ranked():
    one = figures("exact", half=0.1, log_prob=-1.0)
    for change in ({"base_measure": "mass"}, {"conditional": True}, {"kind": "estimate"}):
        other = figures("exact", half=0.1, log_prob=-9.0)
        vars(other).update(change)
        found = differences.verdicts([entry("A", one), entry("B", other)], "log_prob")["A", "B"]
        assert found.state == "apart"
        assert found.reason
        assert differences.best([entry("A", one), entry("B", other)], "log_prob") == []
    vars(other).update({"base_measure": "mass", "kind": "bound"})
    assert differences.verdicts([entry("A", one), entry("B", other)], "log_prob")["A", "B"].state == "apart"


def test_density_is_judged_by_its_distance_from_one_and_speed_by_factors():
    def both(name: str, a: float, b: float, half: float) -> str:
        one, other = (entry(k, figures(**{name: estimate(v, half)})) for k, v in (("A", a), ("B", b)))
        return differences.verdicts([one, other], name)["A", "B"].state

    assert both("density", 1.4, 0.9, 0.05) == "worse"
    assert both("density", 1.2, 0.8, 0.05) == "open"  # equally far
    assert both("frechet", 1.0, 2.0, 0.1) == "better"
    seeds = [entry(k, *(figures(samples_per_second=v) for v in values)) for k, values in (("A", (10, 11, 9)), ("B", (100, 150, 80)))]
    assert differences.verdicts(seeds, "samples_per_second")["A", "B"].state == "worse"


def test_leaders_are_those_whom_nobody_beats():
    near = [entry(k, figures(coverage=estimate(v, 0.05))) for k, v in (("A", 0.90), ("B", 0.89), ("C", 0.5))]
    assert [e.key for e in differences.best(near, "coverage")] == ["A", "B"]
    assert differences.indistinct(near, "coverage") == "Coverage: model A leads, but cannot be told apart from model B."
    assert differences.indistinct(near[1:], "coverage") == "Coverage: model B is best, by more than luck explains."


# -- the trilemma ---------------------------------------------------------------------------------------------------


def test_the_front_holds_whom_no_other_dominates():
    def model(key: str, density: float, coverage: float, speed: float) -> leaderboard.Entry:
        return entry(key, figures(density=density, coverage=coverage, samples_per_second=speed))

    good, fast, poor, crowded = (
        model("A", 0.9, 0.9, 1.0),
        model("B", 0.5, 0.5, 100.0),
        model("C", 0.8, 0.9, 1.0),
        model("D", 1.3, 0.6, 50.0),
    )
    assert trilemma.front([good, fast, poor, crowded]) == {"A", "B", "D"}  # a density of 1.3 is farther from 1 than A's, but D is faster
    assert trilemma.front([good, poor, model("E", 1.3, 0.6, 1.0)]) == {"A"}
    assert trilemma.front([good, model("E", 0.9, 0.9, 1.0)]) == {"A", "E"}
    assert "Every model" in trilemma.sentence([good, fast])
    assert trilemma.sentence([good, poor]).endswith("at least as good in all three: model A.")


def test_the_trilemma_is_drawn_with_whiskers_and_the_yardstick(points, tmp_path):
    rows = [row("a", figures(half=0.05)), row("b", figures("none", half=0.1, density=0.5, coverage=0.3, samples_per_second=9.0, nfe=50.0))]
    text = write_report(comparison(rows, points), tmp_path / "r.html").read_text()
    page = check_self_contained(text)
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert sum(label.startswith("Quality against coverage; wider haloes sample faster") for label in labels) == 2  # wide and narrow pages
    assert any(label.startswith("Quality against speed of sampling") for label in labels)
    assert any(label.startswith("Coverage against speed of sampling") for label in labels)
    assert "B, b: quality 0.50 ± 0.10, coverage 0.30 ± 0.10, samples/s 9, NFE 50, likelihood none" in labels[0]
    plane = text[text.index('<figure class="plane broad">') :].split("</svg>")[0]
    whiskers = re.findall(r'class="whisker c0" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', plane)
    assert len(whiskers) == 2  # across and up
    (left, right, *_), middle = map(float, whiskers[0]), re.search(r'class="point c0">.*?cx="([\d.]+)"', plane)
    assert (left + right) / 2 == pytest.approx(float(middle[1]), abs=0.11)  # both ends and the middle are rounded to 0.1
    assert plane.count('class="guide"') == 2
    assert '<polygon points="' in plane


def test_letters_that_would_cover_each_other_give_way():
    chart = Chart("", width=300, height=300, x_range=(0, 1), y_range=(0, 1))
    for key in "ABC":
        chart.point(0.5, 0.5, "c0", key)
    text = chart.render()
    places = [(float(x), float(y)) for x, y in re.findall(r'class="key" x="([\d.]+)" y="([\d.]+)"', text)]
    gaps = [math.dist(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
    assert min(gaps) > 18  # discs of radius 9
    assert text.count('r="3.5"') >= 2  # dots keep the true place


# -- further sections -----------------------------------------------------------------------------------------------


def test_alarms_stand_in_a_section_and_mark_their_row(points, tmp_path):
    warned = figures("none")
    warned.alarms = [{"kind": "mode collapse", "step": 1200, "says": "Samples miss <a lot>.", "remedy": "A lower lr."}]
    rows = [row("a", warned), row("a", warned, seed=1), row("b", figures())]
    made = comparison(rows, points, (0, 1))
    text = write_report(made, tmp_path / "r.html").read_text()
    words_of = " ".join(" ".join(check_self_contained(text).text).split())
    assert "a: mode collapse seeds 0, 1, from step 1,200 Samples miss <a lot>. Try: A lower lr." in words_of
    assert text.count('class="alarm"') == 1
    assert "(!) a, seed 0: Samples miss <a lot>. A lower lr." in str(made)
    calm = write_report(comparison(rows[2:], points), tmp_path / "c.html").read_text()
    assert "No alarm stood at the end of any training." in calm


def test_every_figure_that_is_shown_is_explained_by_its_one_place(points, tmp_path):
    from pushforward.figures import FIGURES

    every = figures(
        half=0.01,
        log_prob=-1.0,
        **{n: 0.5 for n, about in FIGURES.items() if about.group in ("distance", "mixture", "copying", "table", "cost")},
    )
    every.spaces = {"another space": {"density": estimate(0.4, 0.1), "frechet": estimate(3.0, 0.5)}}
    text = write_report(comparison([row("a", every)], points), tmp_path / "r.html").read_text()
    said = " ".join(" ".join(Page(text).text).split())
    for name, about in FIGURES.items():
        if every.value(name) is not None:
            assert about.text in said, name
    assert "In other feature spaces" in said
    assert "another space" in said
    assert "0.40 ± 0.10" in said


def test_a_report_is_written_again_from_its_folder(points, tmp_path):
    found = compare([Gauss(), Duel()], points, steps=3, seeds=2, workers=0, out=tmp_path / "c", n=20, batch_size=32, progress=False)
    before = (found.path / "report.html").read_text()
    (found.path / "report.html").unlink()
    assert rewrite(found.path) == found.path / "report.html"
    assert (found.path / "report.html").read_text() == before
    with pytest.raises(RunError, match="holds no comparison that could go on"):
        rewrite(tmp_path)


# -- pictures -------------------------------------------------------------------------------------------------------


def test_pixels_of_levels_reach_from_black_to_white():
    data = load_data("digits")
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 16, 8
    images = plots.pixels(x, data)
    assert images.shape == (1, 8, 8, 3)
    assert images[0, 0, :3, 0].tolist() == [255, 128, 0]  # 127.5 rounds to even


def test_tiles_leave_transparent_gaps():
    canvas = plots.tiles(np.full((3, 2, 4, 3), 9, np.uint8), columns=2)
    assert canvas.shape == (5, 9, 4)
    assert canvas[0, 0].tolist() == [9, 9, 9, 255]
    assert canvas[0, 4].tolist() == canvas[3, 5].tolist() == [0, 0, 0, 0]  # a gap; the place of a fourth image


def test_density_picture_survives_impossible_points():
    values = np.zeros((5, 5))
    values[0] = -np.inf
    assert plots.to_png(plots.density(values))[:4] == b"\x89PNG"
    assert plots.to_png(plots.density(np.full((5, 5), -np.inf)))[:4] == b"\x89PNG"


def test_chart_places_points_and_skips_what_an_axis_cannot_hold():
    chart = Chart("two points", x_log=True, width=200, height=100)
    chart.point(1.0, 0.0, "c0", "A")
    chart.point(100.0, 1.0, "c1", "B")
    chart.point(0.0, 1.0, "c2", "zero has no logarithm")
    chart.line([1, 2], [math.nan, math.inf], "c3")
    text = chart.render()
    assert "c2" not in text
    assert "c3" not in text
    (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text))
    # 8 % of the logarithmic range lies outside on either side: 1 and 100 stand at 8/116 and 108/116 of the axis from 52 to 186
    assert x1 == pytest.approx(52 + 134 * 8 / 116, abs=0.05)
    assert x2 == pytest.approx(52 + 134 * 108 / 116, abs=0.05)
    assert y1 > y2  # up is more


@pytest.mark.parametrize(
    ("low", "high", "texts"), [(0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (-20, 30, ["−20", "−10", "0", "10", "20", "30"])]
)
def test_ticks_are_round_numbers(low, high, texts):
    chart = Chart("", x_range=(low, high), y_range=(0, 1))
    chart.line([low, high], [0, 1], "c0")
    assert re.findall(r'text-anchor="middle">([^<]+)</text><', chart.render())[: len(texts)] == texts
