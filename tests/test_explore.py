"""Looking inside: every tool on models whose answers are known, and the whole page."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy.special import ndtri
from torch import Tensor, nn

import pushforward as pf
from pushforward import explore as look_inside
from pushforward.cli import app
from pushforward.data.spec import DataSpec, categories
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.explore import (
    Lens,
    active_units,
    arithmetic,
    attributes_of,
    direction,
    edit,
    gaps,
    grid,
    interpolate,
    lerp,
    linear_probe,
    lipschitz,
    pixel_shift,
    probe_features,
    quantiles,
    scatter,
    shifted,
    singular_values,
    slerp,
    ssim,
    traverse,
)
from pushforward.model import GradientModel, Loss, Objective

FIT: dict[str, Any] = {"steps": 30, "batch_size": 32, "progress": False, "alarms": False}
F64 = torch.float64


class Rotated(GradientModel):
    """z = (x - b) A, x = z A^T + b with A (D, d) of orthonormal columns times `stretch`: what PCA would be, every answer known."""

    name = "rotated"
    unsupported = {"sample": "it has no prior.", "log_prob": "it has no density."}

    def __init__(self, latent_dim: int = 2, stretch: float = 2.0):
        super().__init__()
        self.latent_dim, self.stretch = latent_dim, stretch

    def _build(self, spec: DataSpec) -> None:
        A = torch.linalg.qr(torch.randn(spec.dim, self.latent_dim, dtype=F64)).Q.float()
        self.A, self.b = nn.Parameter(A), nn.Parameter(torch.zeros(spec.dim))

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("square", (self,), lambda batch: Loss((batch.x.flatten(1) - self.b).square().sum(1))),)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return (x.flatten(1) - self.b) @ self.A / self.stretch

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        assert self.spec is not None
        return (self.stretch * z @ self.A.T + self.b).reshape(len(z), *self.spec.shape)


def blobs(n: int = 300, dim: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussians a distance of 8 apart along the first column, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return rng.normal(size=(n, dim)) + 8 * y[:, None] * np.eye(dim)[0], y


@pytest.fixture(scope="module")
def points() -> tuple[pf.Model, pf.Data]:
    x, y = blobs()
    data = pf.load_data(x, label=y)
    return Rotated(latent_dim=3).fit(data, **FIT), data


@pytest.fixture(scope="module")
def digits() -> tuple[pf.Model, pf.Data]:
    data = pf.load_data("digits")
    return pf.VAE(latent_dim=3, hidden=(32,)).fit(data, **FIT), data


# -- walks ---------------------------------------------------------------------------------------------------------------


def test_slerp_ends_at_the_codes_keeps_the_norm_and_moves_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, generator=generator, dtype=F64)
    t = torch.linspace(0, 1, 9, dtype=F64)
    walk = slerp(a, 3 * b, t)
    # Sums of two terms of order 10, each with a few roundings of 1e-16.
    assert torch.allclose(walk[0], a, atol=1e-13)
    assert torch.allclose(walk[-1], 3 * b, atol=1e-13)
    b = b * a.norm() / b.norm()
    walk = slerp(a, b, t)
    assert torch.allclose(walk.norm(dim=1), a.norm().expand(9), atol=1e-13)
    steps = (walk[1:] - walk[:-1]).norm(dim=1)
    assert torch.allclose(steps, steps[:1].expand(8), atol=1e-13)
    # Half-way between two axes is the diagonal on the circle.
    e = torch.eye(2, dtype=F64)
    assert torch.allclose(slerp(e[0], e[1], torch.tensor([0.5], dtype=F64)), torch.full((1, 2), math.sqrt(0.5), dtype=F64), atol=1e-15)


def test_slerp_takes_the_line_where_no_arc_is_given() -> None:
    a, t = torch.tensor([1.0, 2.0], dtype=F64), torch.linspace(0, 1, 5, dtype=F64)
    for b in (a, 2 * a, -a, 0 * a):
        walk = slerp(a, b, t)
        assert torch.equal(walk, lerp(a, b, t))


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_walks_end_at_the_reconstructions(points: Any, method: Any) -> None:
    lens = Lens(*points)
    walk = interpolate(lens, [(0, 1), (4, 2)], method=method, steps=5)
    again = np.asarray(lens.model.reconstruct(lens.held.subset(torch.tensor([0, 1, 4, 2])).records()))
    found = np.asarray(walk.decoded.records).reshape(2, 5, -1)
    # float32 codes and records of order 10
    np.testing.assert_allclose(found[:, [0, -1]].reshape(4, -1), again, atol=1e-4)
    assert np.asarray(walk.ends.records).shape == (4, 4)
    with pytest.raises(ConfigError, match="steps must be at least 2"):
        interpolate(lens, [(0, 1)], steps=1)


def test_sums_of_codes_are_sums_of_records_under_a_linear_decoder(points: Any) -> None:
    lens = Lens(*points)
    found = arithmetic(lens, [(0, 1, 2)])
    a, b, c = (np.asarray(lens.model.reconstruct(lens.held.subset(torch.tensor([i])).records()))[0] for i in range(3))
    np.testing.assert_allclose(np.asarray(found.decoded.records)[0], a - b + c, atol=1e-4)  # float32, as above


# -- squares and traversals ----------------------------------------------------------------------------------------------


def test_the_squares_steps_are_equally_probable() -> None:
    # ndtri is correct to a few roundings in both libraries
    np.testing.assert_allclose(quantiles(20).numpy(), ndtri((np.arange(20) + 0.5) / 20), rtol=1e-13, atol=1e-15)
    with pytest.raises(ConfigError, match="side"):
        quantiles(1)


def test_the_square_moves_two_dimensions_right_and_up(digits: Any) -> None:
    lens = Lens(*digits, n=100)
    g = grid(lens, side=4, dims=(2, 0))
    assert g.through == "normal"  # a VAE's prior
    codes = g.codes.view(4, 4, 3)
    q = torch.from_numpy(ndtri((np.arange(4) + 0.5) / 4))
    assert torch.allclose(codes[0, :, 2], q)
    assert torch.allclose(codes[:, 0, 0], q.flip(0))
    assert torch.allclose(codes[:, :, 1], lens.places.double().mean(0)[1].expand(4, 4))
    with pytest.raises(ConfigError, match="two of the 3 dimensions"):
        grid(lens, dims=(0, 3))


def test_codes_far_from_normal_get_their_own_quantiles(points: Any) -> None:
    lens = Lens(*points)
    g = grid(lens, side=5, dims=(0, 1), through="codes")
    np.testing.assert_allclose(g.across.numpy(), np.quantile(lens.places.double().numpy()[:, 0], (np.arange(5) + 0.5) / 5), rtol=1e-12)


def test_active_units_count_what_varies() -> None:
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05])
    assert active_units(z) == 2  # variances 1, 0.04, 0.0025 against 0.01


def test_a_traversal_moves_one_dimension_at_a_time(points: Any) -> None:
    lens = Lens(*points)
    t = traverse(lens, 1, steps=3, most=2)
    model: Any = lens.model
    x = t.decoded.x.view(2, 3, -1)
    for i, k in enumerate(t.dims):
        step = (x[i, -1] - x[i, 0]) / (t.values[i, -1] - t.values[i, 0])
        assert torch.allclose(step.float(), (model.stretch * model.A[:, k]).detach(), atol=1e-4)
    assert t.spread[t.dims[0]] == t.spread.max()


# -- attributes ----------------------------------------------------------------------------------------------------------


def test_a_direction_recovers_the_difference_that_codes_were_made_with() -> None:
    generator = torch.Generator().manual_seed(0)
    has = torch.arange(2000) % 2 == 0
    v = torch.tensor([1.5, 0.0, -1.0], dtype=F64)
    z = 0.5 * torch.randn(2000, 3, generator=generator, dtype=F64) + has[:, None] * v
    found = direction(z, has.numpy(), held=(z, has.numpy()))
    # The means of 1,000 codes each differ from the true ones by 0.5 sqrt(2/1000) = 0.022 a dimension: five of these.
    assert torch.allclose(found.difference, v, atol=0.11)
    # Isotropic noise: the boundary's normal is along v too; the regression's angle has an error of about 0.05.
    assert float(found.normal @ v / (found.normal.norm() * v.norm())) > 0.98
    assert found.normal @ found.difference / found.normal.norm() == pytest.approx(float(found.normal.norm()), rel=1e-9)
    assert found.accuracy is not None
    assert found.accuracy > 0.9  # Phi(|v| / 2 / 0.5) = 0.964
    with pytest.raises(DataError, match="at least 2 with it"):
        direction(z, np.zeros(2000))


def test_editing_adds_and_takes_away_the_difference(points: Any) -> None:
    lens = Lens(*points)
    (attribute,) = attributes_of(lens)
    found = edit(lens, attribute, [0, 1], strengths=(-1.0, 0.0, 1.0))
    assert torch.allclose(found.codes[:, 2] - found.codes[:, 1], attribute.difference.expand(2, -1))
    assert torch.allclose(found.codes[:, 0], lens.z_held[[0, 1]].double() - attribute.difference)
    again = np.asarray(lens.model.reconstruct(lens.held.subset(torch.tensor([0, 1])).records()))
    np.testing.assert_allclose(np.asarray(found.decoded.records).reshape(2, 3, -1)[:, 1], again, atol=1e-4)
    with pytest.raises(ConfigError, match="neither"):
        edit(lens, attribute, [0], by="other")  # pyright: ignore[reportArgumentType]


def test_attributes_of_the_users_own_are_in_the_order_of_the_source(points: Any) -> None:
    lens = Lens(*points)
    x, y = blobs()
    (own,) = attributes_of(lens, {"second blob": y == 1})
    (label,) = attributes_of(lens)
    assert torch.equal(own.difference, label.difference)
    with pytest.raises(DataError, match="the same for all"):
        attributes_of(lens, {"nothing": np.zeros(len(x), bool)})


# -- codes by class ------------------------------------------------------------------------------------------------------


def test_codes_of_classes_far_apart_have_a_large_silhouette(points: Any) -> None:
    found = scatter(Lens(*points))
    assert found.points.shape[1] == 2
    assert "principal components of 3-dimensional" in found.how
    assert found.accuracy is not None
    assert found.silhouette is not None
    assert found.accuracy.value > 0.9


def test_a_linear_probe_tells_what_features_hold() -> None:
    rng = np.random.default_rng(0)
    y, held = np.arange(400) % 4, np.arange(200) % 4
    right = np.eye(4)[y] + 0.1 * rng.normal(size=(400, 4)), np.eye(4)[held] + 0.1 * rng.normal(size=(200, 4))
    nothing = rng.normal(size=(400, 4)), rng.normal(size=(200, 4))
    found = probe_features({"classes": right, "noise": nothing}, y, held, counts=(20, 10_000)).accuracy
    assert list(found["classes"]) == [20, 400]
    assert found["classes"][20].value == 1.0  # means 10 standard deviations apart
    # Chance is 1/4 with a standard error of 0.031 over 200 records: four of these.
    assert abs(found["noise"][400].value - 0.25) < 0.125


def test_several_models_are_probed_side_by_side(points: Any) -> None:
    model, data = points
    found = linear_probe({"one": model, "two": model}, data, counts=(20,))
    assert list(found.accuracy) == ["the records themselves", "one", "one, untrained", "two", "two, untrained"]
    assert found.accuracy["one"] == found.accuracy["two"]
    with pytest.raises(Unsupported, match="no encode"):
        linear_probe({"gan": pf.GAN().build(data.spec)}, data)


# -- gaps and slopes -----------------------------------------------------------------------------------------------------


def test_power_iteration_finds_the_largest_singular_value_of_a_linear_map() -> None:
    """Columns of lengths 3, 1, 0.5: an error of (1/3)^(4k), far below rounding after 50 steps; products of 6 terms round to 1e-15."""
    W = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)).Q * torch.tensor(
        [3.0, 1.0, 0.5], dtype=F64
    )
    V = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=F64)).Q
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    found = singular_values(lambda t: t @ (W @ V).T + 1, z)
    assert torch.allclose(found, torch.full((5,), 3.0, dtype=F64), rtol=1e-14)


def test_slopes_are_those_at_each_code() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, 0.5]], dtype=F64)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda t: torch.cat([t.sin(), t * t]), row) for row in z])  # pyright: ignore
    found = singular_values(lambda t: torch.cat([t.sin(), t * t], 1), z, iterations=200)
    assert torch.allclose(found, torch.linalg.matrix_norm(jacobians, 2), rtol=1e-12)
    with pytest.raises(Unsupported, match="no slope"):
        singular_values(torch.round, z)


def test_the_lipschitz_figure_of_a_linear_decoder(points: Any) -> None:
    lens = Lens(*points)
    found = lipschitz(lens)
    # float32: every column of 2 A has length 2
    assert torch.allclose(found.values, torch.full_like(found.values, 2.0), rtol=1e-5)
    assert found.median == pytest.approx(found.high, rel=1e-5)
    # records are an isometric image of the codes, times 2: scaled, the slope is 1
    assert found.relative == pytest.approx(1.0, rel=1e-4)
    assert all(p.requires_grad for p in lens.model.parameters())


def test_midpoints_between_clusters_are_as_empty_as_an_isometry_says() -> None:
    """One column, codes half as long: codes and records lie alike, so both relative distances are equal, and 1 at codes (float32)."""
    x, y = blobs(dim=1)
    data = pf.load_data(x, label=y)
    found = gaps(Lens(Rotated(latent_dim=1).fit(data, **FIT), data))
    assert found.between == (("0", "1"),)
    assert float(found.emptiness[0]) > 20  # 4 standard deviations from either mean, with a code every 0.03
    assert torch.allclose(found.distance, found.emptiness, rtol=1e-3)
    assert found.at_codes == pytest.approx(1.0, rel=1e-3)


# -- the shift -----------------------------------------------------------------------------------------------------------


def test_ssim_of_equal_images_is_1_and_of_constant_ones_their_luminance() -> None:
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.allclose(ssim(x, x), torch.ones(3, dtype=F64), atol=1e-14)
    a, b = torch.full_like(x, 0.2), torch.full_like(x, 0.6)
    # Variances are 0 up to rounding of 1e-16 against C2 = 9e-4, so SSIM = (2ab + C1) / (a^2 + b^2 + C1).
    assert torch.allclose(ssim(a, b), torch.full((3,), (0.24 + 1e-4) / (0.4 + 1e-4), dtype=F64), atol=1e-12)
    with pytest.raises(DataError, match="one shape"):
        ssim(x, x[:, :, :8])


def test_ssim_by_hand() -> None:
    """One window of 3 x 3 pixels and the peak 255, against Wang's formula with its sums written out."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 255, (2, 3, 3))
    g = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / 1.5) ** 2)
    w = np.outer(g, g) / np.outer(g, g).sum()
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
    c1, c2 = 2.55**2, 7.65**2
    by_hand = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    found = ssim(*(torch.from_numpy(t)[None, None] for t in (a, b)), peak=255)
    assert float(found) == pytest.approx(by_hand, rel=1e-10)  # E[a^2] - E[a]^2 cancels four digits of sixteen


def test_a_shift_moves_columns_to_the_left() -> None:
    x = torch.arange(4.0).reshape(1, 1, 1, 4)
    assert shifted(x).flatten().tolist() == [1, 2, 3, 3]


def test_the_shift_of_stripes_is_another_image_by_squared_error() -> None:
    """Stripes one pixel wide become their negative: a squared error of 1 in all columns but the last, which is repeated."""
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (60, 8, 4))
    stripes[::2] = 255 - stripes[::2]
    data = pf.load_data(stripes)
    lens = Lens(pf.VAE(latent_dim=2, hidden=(8,)).fit(data, **FIT), data, n=40)
    found = pixel_shift(lens)
    assert found.shift.mse == pytest.approx(7 / 8)
    assert found.shift.ssim < 0
    assert found.reconstruction is not None


# -- the whole -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds, and whether its elements are closed in order."""

    VOID = {"meta", "link", "img", "br", "line", "circle", "polyline", "polygon"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.heads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []  # pyright: ignore
        self.links += [found["href"]] if found.get("href") else []  # pyright: ignore
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.heads.append(data)


def check(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "http://" not in text
    assert "https://" not in text
    assert all(str(i["src"]).startswith("data:image/png;base64,") and i["alt"] for i in page.images)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    return page


def test_a_vae_on_images_gives_the_whole_page_and_the_same_again(digits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pf.explore(*digits, n=100, side=3, steps=3)
    assert found.skipped == {}
    assert "explore 11/11" in capsys.readouterr().err
    page = check(found.save(tmp_path / "one"))
    assert len(page.heads) == 12  # eleven parts and what was looked at
    again = pf.explore(*digits, n=100, side=3, steps=3, progress=False).save(tmp_path / "two")
    figures = [json.loads((tmp_path / k / "explore.json").read_text()) for k in ("one", "two")]
    assert figures[0] == figures[1]
    assert figures[0]["pixel_shift"]["shift"]["mse"] > 0
    first, second = ((tmp_path / k / "explore.html").read_text().split('id="what"')[0] for k in ("one", "two"))
    assert first == second
    assert again.name == "explore.html"


def test_a_linear_model_on_points_names_what_does_not_apply(points: Any, tmp_path: Path) -> None:
    found = pf.explore(*points, side=3, steps=3, progress=False)
    assert set(found.skipped) == {"neighbours", "shift"}
    assert found.skipped["neighbours"] == "rotated has no sample: it has no prior."
    assert found.lipschitz is not None
    page = check(found.save(tmp_path))
    assert "What does not apply" in page.heads


def test_a_gan_has_a_decoder_to_look_at_and_no_codes(tmp_path: Path) -> None:
    data = pf.load_data("ring")
    found = pf.explore(pf.GAN(hidden=(8,)).fit(data, **FIT), data, n=100, side=3, steps=3, progress=False)
    assert {"grid", "traversal", "neighbours"}.isdisjoint(found.skipped)
    assert "gan has no encode: a GAN learns no map" in found.skipped["interpolation"]
    check(found.save(tmp_path))


class Symbols(Rotated):
    """Codes that are the indices of a codebook."""

    name = "symbols"
    code_spec = DataSpec("points", (2,), (categories(9),))


def test_there_is_nothing_between_two_symbols(points: Any) -> None:
    data = points[1]
    found = pf.explore(Symbols().fit(data, **FIT), data, n=40, side=3, steps=3, progress=False)
    assert {"interpolation", "grid", "scatter", "probe", "lipschitz"} <= set(found.skipped)
    assert "nothing between two symbols" in found.skipped["grid"]


def test_rows_of_a_table_are_shown_in_the_users_units_and_its_yes_and_no_columns_edited(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    member = rng.random(200) < 0.5
    frame = pd.DataFrame({"height": 1.7 + 0.1 * member + 0.01 * rng.normal(size=200), "member": member, "weight": rng.normal(70, 9, 200)})
    data = pf.load_data(frame)
    found = pf.explore(pf.VAE(latent_dim=2, hidden=(16,)).fit(data, **FIT), data, n=100, side=3, steps=3, progress=False)
    assert set(found.skipped) == {"probe", "shift"}
    assert found.edits is not None
    assert found.edits[0].attribute.name.startswith("member is")
    assert found.interpolation is not None
    assert list(found.interpolation[0].decoded.records.columns) == ["height", "member", "weight"]
    text = check(found.save(tmp_path))
    assert text.images  # the square of codes, column by column


def test_a_conditional_model_keeps_its_conditions(tmp_path: Path) -> None:
    x, y = blobs(120)
    data = pf.load_data(x, label=y)
    model = pf.VAE(latent_dim=2, hidden=(8,)).fit(data, condition=True, **FIT)
    found = pf.explore(model, data, n=60, side=3, steps=3, progress=False)
    assert set(found.skipped) == {"shift"}
    lens = found.lens
    again = np.asarray(model.reconstruct(lens.held.subset(torch.tensor([0])).records(), condition=lens.conditions([0])))
    walk = interpolate(lens, [(0, 1)], steps=3)
    np.testing.assert_allclose(np.asarray(walk.decoded.records)[:1], again, atol=1e-4)


def test_mistakes_are_named_before_any_work(points: Any) -> None:
    model, data = points
    with pytest.raises(ConfigError, match="two different dimensions"):
        pf.explore(model, data, dims=(1, 1))
    with pytest.raises(ConfigError, match="in pairs"):
        pf.explore(model, data, records=(1, 2, 3))
    with pytest.raises(ConfigError, match="from 0"):
        pf.explore(model, data, records=(1, 10_000))
    with pytest.raises(DataError, match="needs data"):
        pf.explore(model)
    with pytest.raises(ConfigError, match="at least 20"):
        pf.explore(model, data, n=3)
    assert "explore" in pf.__all__
    assert callable(look_inside)


def test_the_command_writes_page_and_figures(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", blobs(100, 2)[0])
    run = tmp_path / "run"
    pf.VAE(latent_dim=2, hidden=(8,)).fit(pf.load_data(str(tmp_path / "x.npy")), out=run, **FIT)
    result = CliRunner().invoke(app, ["explore", str(run), "--side", "3", "--steps", "3", "--no-progress", "--dims", "0", "1"])
    assert result.exit_code == 0, result.output
    assert Path(result.output.strip()) == run / "explore" / "explore.html"
    check(run / "explore" / "explore.html")
    assert json.loads((run / "explore" / "explore.json").read_text())["traversal"]["code_dim"] == 2
    found = pf.explore(run, side=3, steps=3, progress=False)
    assert found.to_json()["grid"]["side"] == 3
