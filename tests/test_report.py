"""The report: self-contained, escaped, legible, and saying of every likelihood what it is."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from report_parts import comparison, estimate, figures, row
from torch import Tensor
from toys import Duel, Gauss

from pushforward.compare import compare
from pushforward.data import Data, load_data
from pushforward.data.spec import DataSpec
from pushforward.errors import RunError
from pushforward.model import ClosedFormModel
from pushforward.report import plots, rewrite, write_report
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


# -- drawings ---------------------------------------------------------------------------------------------------


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
