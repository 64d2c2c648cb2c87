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
from pushforward.evaluate import Evaluation
from pushforward.model import ClosedFormModel
from pushforward.report import leaderboard, plots, write_report
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

    VOID = {"meta", "link", "img", "br", "line", "circle"}

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


def figures(kind: str = "exact", **values) -> Evaluation:
    base = {"density": 0.9, "coverage": 0.8, "precision": 0.7, "recall": 0.6, "frechet": 0.5, "samples_per_second": 100.0, "nfe": 1}
    real = {"density": 1.0, "coverage": 0.97, "precision": 0.9, "recall": 0.9, "frechet": 0.1}
    return Evaluation("m", kind, features="pixels", held_out=10, samples=10, parameters=5, real=real, **{**base, **values})


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
    found = compare([Resample()], "digits", steps=1, seeds=1, workers=0, out=tmp_path / "c", n=20, progress=False)
    page = check_self_contained((found.path / "report.html").read_text())
    assert [image["alt"] for image in page.all("img")] == ["40 real held-out images", "40 images drawn by resample"]
    assert "One generative model on digits" in page.text
    for image in page.all("img"):  # 8 x 5 images of 8 x 8 pixels, a pixel apart
        assert Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size == (71, 44)


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
    rows = [row(evil, figures(log_prob=-1.0, log_prob_se=0.1)), row("b", None, f"it said {evil}")]
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
        row("a", figures("bound", log_prob=-1.0, log_prob_se=0.1, bits_per_dim=2.0, bits_per_dim_se=0.01)),
        row("b", figures("exact", log_prob=-2.0, log_prob_se=0.1, bits_per_dim=3.0, bits_per_dim_se=0.01)),
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
    exact = comparison([rows[1], row("d", figures("exact", log_prob=-3.0, log_prob_se=0.1))], points)
    assert len(re.findall(r'data-name="log p\(x\)" class="best"', write_report(exact, tmp_path / "e.html").read_text())) == 1


def test_density_beyond_that_of_real_records_is_not_called_best(points, tmp_path):
    rows = [
        row("crowded", figures("none", density=1.4)),
        row("good", figures("none", density=0.9)),
        row("poor", figures("none", density=0.2)),
    ]
    text = write_report(comparison(rows, points), tmp_path / "r.html").read_text()
    assert re.findall(r'data-name="quality" class="best"><span>([\d.]+)<', text) == ["0.900"]


# -- the terminal ---------------------------------------------------------------------------------------------------


def test_terminal_marks_bounds_and_failures(points):
    rows = [
        row("a", figures("bound", log_prob=-1.0, log_prob_se=0.1)),
        row("b", figures("exact", log_prob=-2.0, log_prob_se=0.1)),
        row("dead", None, "out of [memory]", 0),
        row("dead", None, "out of [memory]", 1),
    ]
    text = str(comparison(rows, points, (0, 1)))
    assert "≥ −1.00 ± 0.10 lower bound" in text
    assert "−2.00 ± 0.10 exact" in text
    assert text.index("lower bound") < text.index("exact")
    assert "dead (seeds 0, 1) failed: out of [memory]" in text
    assert "real records" in text


def test_several_seeds_give_their_mean_and_spread():
    e = leaderboard.Entry("A", "a", [row("a", figures(log_prob=v)) for v in (1.0, 2.0, 6.0)])
    # mean 3, variance (4 + 1 + 9) / 2 = 7
    assert e.figure("log_prob") == leaderboard.Figure(3.0, pytest.approx(math.sqrt(7)))
    assert e.figure("kl") is None
    mixed = leaderboard.Entry("A", "a", [row("a", figures("exact")), row("a", figures("bound"))])
    assert mixed.kind == "bound"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.0, "0.000"), (-1.23456, "−1.23"), (1234.5, "1,234"), (1234567.0, "1.23e6"), (0.00012, "1.20e−4")],
)
def test_numbers(value, text):
    assert leaderboard.number(value) == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (-102.7412, 0.7613, "−102.74 ± 0.76"),
        (2.5, 0.03, "2.500 ± 0.030"),
        (1234.56, 78.9, "1,235 ± 79"),
        (3.14159, None, "3.14"),
        (2.15, 1e-9, "2.1500 ± 0.0000"),
    ],
)
def test_values_have_the_decimals_that_their_spread_allows(value, spread, text):
    assert leaderboard.with_spread(leaderboard.Figure(value, spread)) == text


@pytest.mark.parametrize(("value", "text"), [(1.5e6, "1.5 M"), (34_000, "34 k"), (8967.9, "8,968"), (0.123, "0.12"), (None, "–")])
def test_counts(value, text):
    assert leaderboard.counted(value) == text


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
