"""Evaluation of models whose figures are known: Gaussians, a uniform model on levels, and the truth itself as a model."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Duel, Gauss

from pushforward import metrics, spaces
from pushforward.data import Data, load_data
from pushforward.data.spec import DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, NotFitted
from pushforward.evaluate import Evaluation, FeatureSpace, _classes, evaluate, verdict
from pushforward.fidelity import table_figures
from pushforward.metrics import Estimate
from pushforward.model import ClosedFormModel
from pushforward.rng import Rng


class Uniform(ClosedFormModel):
    """Uniform on all records of a discrete spec; log p = -sum log k."""

    name = "uniform"
    density = "exact"

    def _build(self, spec: DataSpec) -> None:
        self.register_buffer("sizes", torch.tensor([float(s.size or 0) for s in spec.columns]).reshape(spec.shape))

    def _estimate(self, data, training, run) -> None: ...

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return (rng.rand(n, *self.sizes.shape) * self.sizes).floor()

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        return -self.sizes.log().sum().expand(len(x))


class Oracle(ClosedFormModel):
    """The known density of a data set, as a model; `bias` is added to its log p."""

    name = "oracle"
    density = "exact"

    def __init__(self, bias: float = 0.0):
        super().__init__()
        self.bias = bias

    def _build(self, spec: DataSpec) -> None: ...

    def _estimate(self, data, training, run) -> None:
        self.truth = data.truth

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self.schema.encode(self.truth.sample(n, int(rng.randint(2**31, 1))).numpy())

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        user = torch.as_tensor(self.schema.decode(x))
        return self.truth.log_prob(user) - self.schema.log_det + self.bias


def normal_data(scale: float = 1.0, n: int = 3000) -> Data:
    z = np.random.default_rng(0).normal(size=(n, 2))
    return load_data(scale * (z @ np.array([[3.0, 0.0], [0.0, 0.5]]) + np.array([1.0, -2.0])), test=0.2)


def standard_gauss(data: Data) -> Gauss:
    """N(0, I) in the standardised space: what maximum likelihood would give, up to the held-out records' sampling error."""
    model = Gauss()
    model._adopt(data.schema, False)
    model.build(model.spec)
    with torch.no_grad():
        model.mu.zero_(), model.rho.zero_()
    return model


def test_likelihood_is_the_mean_in_the_users_units_with_its_standard_error():
    data = normal_data()
    found = evaluate(standard_gauss(data), data)
    user = torch.as_tensor(data.schema.decode(data.test.tensor())).double()
    shift, scale = (torch.tensor(v, dtype=torch.float64) for v in (data.schema.shift, data.schema.scale))
    values = torch.distributions.Normal(shift, scale).log_prob(user).sum(1)
    # float32 log-densities of size 5: 6e-8 * 5 each, and less in their mean; the standard deviation (about 1) over sqrt(600) likewise
    assert found.value("log_prob") == pytest.approx(float(values.mean()), abs=3e-6)
    assert found.figures["log_prob"].stderr == pytest.approx(float(values.std()) / math.sqrt(600), abs=3e-6)
    assert (found.kind, found.held_out, found.value("bits_per_dim")) == ("exact", 600, None)
    assert (found.value("parameters"), found.value("nfe"), found.base_measure) == (4, 1, "density")
    assert found.estimator == "log p(x) itself"


def test_ten_times_the_units_lower_the_likelihood_by_D_ln_10_and_leave_all_else():
    one, ten = (evaluate(standard_gauss(d), d) for d in (normal_data(), normal_data(10.0)))
    assert one.value("log_prob") is not None
    assert ten.value("log_prob") == pytest.approx(one.value("log_prob") - 2 * math.log(10), abs=1e-5)
    for name in ("density", "coverage", "precision", "recall"):
        # counts of comparisons between float32 records: a tie may fall either way on scaling, a few of 600 at most
        assert ten.value(name) == pytest.approx(one.value(name), abs=0.01)
    assert ten.value("frechet") == pytest.approx(one.value("frechet"), rel=1e-3, abs=1e-6)


def test_the_right_model_scores_like_real_records():
    data = normal_data()
    found = evaluate(standard_gauss(data), data)
    # Two independent sets of 600 against the same 600: coverage has a standard error of
    # sqrt(.97 * .03 / 600) = 0.7 %, density, whose balls share points, about 3 %; each is the difference of two such.
    assert found.real["energy"].value != 0.0  # other records than the held-out ones themselves
    assert found.real["coverage"].value < 1.0
    assert found.value("coverage") == pytest.approx(found.real["coverage"].value, abs=5 * 0.007 * math.sqrt(2))
    assert found.value("density") == pytest.approx(found.real["density"].value, abs=5 * 0.03 * math.sqrt(2))
    # Two samples of one Gaussian: |dm|^2 and the rest are of order (2 + 2) / 600 in standardised units, and their mean is taken off
    assert found.value("frechet") < 10 * 4 / 600
    assert found.features == "standardised coordinates"


def test_a_shrunken_model_loses_coverage_not_precision():
    data = normal_data()
    model = standard_gauss(data)
    with torch.no_grad():
        model.rho.fill_(-1.5)
    found = evaluate(model, data)
    assert found.value("precision") > 0.97
    assert found.value("coverage") < 0.5 < found.real["coverage"].value


def test_a_uniform_model_on_16_levels_costs_4_bits_per_dim():
    grey = np.random.default_rng(0).integers(0, 16, size=(200, 4, 3)).astype(np.uint8)
    data = load_data(grey, support="levels(16)", test=0.3)
    found = evaluate(Uniform().fit(data), data, features=["pca"])
    assert found.value("bits_per_dim") == pytest.approx(4.0, abs=1e-6)  # float32: ln 16 * 12 to 4e-6 relative 1e-7
    assert found.value("log_prob") == pytest.approx(-12 * math.log(16), abs=1e-5)
    assert "principal components of the pixels (" in found.features


def test_the_truth_as_a_model_has_no_divergence_and_all_modes():
    data = load_data("ring")
    found = evaluate(Oracle().fit(data), data)
    # float32 storage: an error of 6e-8 where the modes' sd is 0.01 moves log p by (r / sd) * 6e-8 / 0.01 < 1e-4
    assert found.value("kl") == pytest.approx(0.0, abs=1e-4)
    assert (found.value("modes_captured"), found.modes) == (8, 8)
    # 2,000 samples: sqrt(.989 * .0111 / 2000) = 0.23 %, five of them; 4,000 coordinates: 1/sqrt(8000) = 1.1 %, five of them
    assert found.value("mode_share") == pytest.approx(found.real["mode_share"].value, abs=0.012)
    assert found.value("mode_spread") == pytest.approx(1.0, abs=0.056)
    assert evaluate(Oracle(bias=-0.25).fit(data), data).value("kl") == pytest.approx(0.25, abs=1e-4)


def test_a_model_without_likelihood_says_so():
    data = normal_data()
    found = evaluate(Duel().fit(data, steps=2, progress=False), data, n=100)
    assert (found.kind, found.value("log_prob"), found.value("bits_per_dim"), found.value("kl")) == ("none", None, None, None)
    assert found.estimator == "this family defines no likelihood"
    assert found.value("coverage") is not None
    assert (found.held_out, found.samples) == (100, 100)


def test_records_of_no_probability_are_counted_not_averaged():
    data = load_data("ring")
    found = evaluate(Oracle(bias=-math.inf).fit(data), data, n=50)
    assert found.value("log_prob") is None
    assert found.notes == ["50 of 50 held-out records have no finite log-likelihood under this model."]


def test_samples_that_are_no_records_are_said_to_be_none():
    data = load_data("ring")
    model = Oracle().fit(data)
    model._sample = lambda n, c, rng: torch.full((n, 2), math.nan)  # type: ignore[method-assign]
    notes = evaluate(model, data, n=50).notes
    assert any(note.startswith("The samples are no records of this kind") for note in notes)


def test_same_seed_same_figures():
    data = normal_data()
    one, two, other = (evaluate(standard_gauss(data), data, n=200, seed=s).to_json() for s in (3, 3, 4))
    for state in (one, two, other):
        del state["figures"]["samples_per_second"]
    assert one == two
    assert one["figures"]["density"] != other["figures"]["density"]


def test_conditional_models_are_asked_with_the_records_own_labels():
    data = normal_data()
    data = data.with_label(np.where(np.arange(len(data)) % 2, "odd", "even"))
    found = evaluate(Gauss().fit(data, condition=True, steps=2, progress=False), data, n=50)
    assert found.conditional
    assert found.samples == 50


def test_json_round_trip_holds_no_nan():
    data = load_data("ring")
    found = evaluate(Oracle().fit(data), data, n=50)
    found.figures["energy"] = Estimate(math.nan, 1.0)
    text = json.dumps(found.to_json(), allow_nan=False)
    again = Evaluation.from_json(json.loads(text))
    assert again.value("energy") is None
    assert again.to_json() == found.to_json()


def test_tables_are_judged_by_columns_pairs_and_what_a_predictor_learns():
    import pandas as pd

    g = np.random.default_rng(0)
    x = g.normal(size=1500)
    frame = pd.DataFrame({"x": x, "y": 2 * x + 0.1 * g.normal(size=1500), "kind": np.where(x > 0, "a", "b")})
    data = load_data(frame, test=0.3)
    model = Gauss()  # columns are independent under this model, whatever it learns
    reals = load_data(frame[["x", "y"]], test=0.3)
    found = evaluate(model.fit(reals, steps=300, progress=False), reals, target="y", n=400)
    assert found.figures["column_fidelity"].value > 0.85
    # |r - s| / 2 with r = 1 and s = 0, and a correlation of 400 independent pairs has sd 0.05
    assert found.value("pair_fidelity") == pytest.approx(0.5, abs=0.1)
    # what is learnt from columns without dependence tells nothing: R^2 about 0; from real records, 1 - 0.01 / 4.01
    assert found.figures["synthetic_score"].value < 0.2 < 0.9 < found.real["synthetic_score"].value
    assert any("x x y" in note for note in found.notes)
    with pytest.raises(ConfigError, match="target='z' is no column of this table"):
        evaluate(model, reals, target="z", n=50)
    result = Evaluation("copy", "none")
    table_figures(result, data, data.test, data.train.tensor()[:400], data.validation.tensor(), "kind")
    assert result.figures["synthetic_score"].value == pytest.approx(1.0, abs=0.05)


def test_labelled_images_have_their_classes_counted():
    data = load_data("digits")
    keep = torch.as_tensor(np.asarray(data.train.labels()) < 7)
    found = Evaluation("seven", "none")

    space = spaces.spaces(data, which="learned")["learned"]
    _classes(found, space, data.test.tensor(), data.train.tensor()[keep][:300], data.validation.tensor())
    assert found.modes == 10
    # some of 300 records are misread (2 % of them), so a class that is missing may be found once or twice: the divergence tells
    assert found.figures["classes_captured"].value <= 10
    # three of ten classes of equal shares missing: KL(q || p) = log(10/7) = 0.357
    assert found.value("class_kl") == pytest.approx(0.357, abs=0.1)
    assert found.real["class_kl"].low <= 0.0 <= found.real["class_kl"].high


def test_two_tests_of_copying_are_read_together():
    g = torch.Generator().manual_seed(0)
    train, held, fresh = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (2000, 400, 400))

    def reading(fake: torch.Tensor) -> tuple[metrics.CopyingTest, Estimate]:
        return metrics.data_copying(train, held, fake), metrics.copied_share(train, held, fake)

    assert verdict({"raw": reading(fresh)}).startswith("No sign of copying")
    assert verdict({"raw": reading(train[:400])}).startswith("Copying: 100% of samples")
    assert verdict({"raw": reading(0.5 * fresh)}).startswith("Smooth rather than copied")  # in the middle all records are near
    # Copies that one space alone can see are copies
    said = verdict({"learned": reading(fresh), "pca": reading(train[:400])})
    assert said.endswith("lie nearer to a training record than held-out records account for, in pca.")


def test_what_cannot_be_evaluated():
    data = normal_data()
    with pytest.raises(NotFitted, match="Gauss.evaluate was called before fit"):
        evaluate(Gauss(), data)
    bare = load_data(np.random.default_rng(0).normal(size=(50, 2)), test=0, validation=0)
    with pytest.raises(DataError, match=r"no held-out record to evaluate on. Leave load_data a test share, such as test=0.1"):
        evaluate(standard_gauss(data), bare)


# -- features -------------------------------------------------------------------------------------------------------


def test_every_column_contributes_the_same_mean_squared_distance():
    spec = DataSpec("table", (3,), (levels(5), categories(3), categories(2)))
    g = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randint(k, (500,), generator=g) for k in (5, 3, 2)], 1).double()
    space = FeatureSpace.fit(x, spec)
    f = space(x)
    # mean over all pairs of |x - x'|^2 = 2 * total variance = 2 in each column's block
    for at in (slice(0, 1), slice(1, 4), slice(4, 6)):
        assert float(torch.cdist(f[:, at], f[:, at]).square().mean()) == pytest.approx(2.0, abs=1e-9)
    assert space.name == "standardised columns"


def test_principal_components_keep_pixel_distances_of_low_rank_images():
    spec = DataSpec("image", (1, 4, 4))
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(200, 3, generator=g, dtype=torch.float64) @ torch.randn(3, 16, generator=g, dtype=torch.float64)).reshape(200, 1, 4, 4)
    space = FeatureSpace.fit(x, spec)
    f = space(x)
    assert 1 <= f.shape[1] <= 3
    centred = x.flatten(1) - x.flatten(1).mean(0)
    assert float(f.square().sum() / centred.square().sum()) >= 0.95
    three = torch.randn(200, 1, 1, 3, generator=g, dtype=torch.float64)  # three independent pixels, none of which can be spared
    plain = FeatureSpace.fit(three, DataSpec("image", (1, 1, 3)))
    # A distance is the root of a difference of squares: sqrt(2.2e-16 * 9) = 4e-8 off at worst, near zero
    assert torch.allclose(torch.cdist(plain(three), plain(three)), torch.cdist(three.flatten(1), three.flatten(1)), atol=1e-6)


def test_constant_columns_do_no_harm():
    x = torch.cat([torch.randn(50, 1, dtype=torch.float64), torch.full((50, 1), 3.0, dtype=torch.float64)], 1)
    assert FeatureSpace.fit(x, DataSpec("points", (2,)))(x).isfinite().all()
