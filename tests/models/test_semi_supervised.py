"""Learning from a few labels: M2's bounds against closed forms and by hand, which labels are seen, and the verbs that name classes."""

import math

import numpy as np
import pytest
import torch
from toys import LIKE

from pushforward.data import load_data
from pushforward.data.spec import BINARY, REAL, DataSpec, categories
from pushforward.errors import ConfigError, DataError, NotFitted, Unsupported
from pushforward.models.latent.adversarial_autoencoder import AdversarialAutoencoder
from pushforward.models.latent.labels import Labelled, labelled_rows
from pushforward.models.latent.linear import Nodes
from pushforward.models.latent.semi_supervised import M2VAE, known_answers, linear_gaussian
from pushforward.models.latent.semi_supervised_aae import SemiSupervisedAAE
from pushforward.rng import Rng
from pushforward.testing import check_resume
from pushforward.train import Batch

QUIET = {"progress": False, "alarms": False}
NAMES = np.array(["ant", "bee", "cow"])


def clusters(n: int = 600, seed: int = 0):
    """Three Gaussians in three dimensions, 6 deviations apart, and their names."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, n)
    return (random.normal(size=(n, 3)) + 6 * np.eye(3)[label]).astype(np.float32), NAMES[label]


def data_of(n: int = 600, **options):
    x, label = clusters(n)
    return load_data(x, label=label, **options)


def m2(spec: DataSpec, **hyper) -> M2VAE:
    return M2VAE(**{"classes": 3, "latent_dim": 2, "hidden": (8,), **hyper}).build(spec).double()


@pytest.fixture(scope="module")
def fitted() -> M2VAE:
    model = M2VAE(labelled=3, latent_dim=1, hidden=(32,), alpha=1.0)
    return model.fit(data_of(1500), steps=400, batch_size=64, lr=5e-3, **QUIET)


# -- M2 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


MIXED = DataSpec("table", (3,), (REAL, categories(3), BINARY))


def test_classes_are_summed_as_by_hand():
    # U(x) = sum_y q(y|x) (L(x, y) + log q(y|x)), each L with its own class put in by hand and the same noise; sums of 10 terms: rounding.
    model = m2(MIXED)
    rng = Rng.seeded(0, LIKE)
    x = torch.stack([rng.randn(6), rng.randint(3, 6).double(), rng.randint(2, 6).double()], 1)
    eps = torch.tensor([0.7, -1.2], dtype=torch.float64)
    u, terms = model._unlabelled(x, Nodes(eps))
    q = model._predict_proba(x)
    by_hand = torch.zeros(6, dtype=torch.float64)
    for k in range(3):
        y = torch.eye(3, dtype=torch.float64)[k].expand(6, -1)
        mu, log_var = (t[:, 0] for t in model.style(x, y[:, None]))
        z = mu + (log_var / 2).exp() * eps
        style = torch.distributions.Normal(mu, (log_var / 2).exp())
        kl = torch.distributions.kl_divergence(style, torch.distributions.Normal(LIKE, LIKE + 1)).sum(1)
        bound = model.likelihood(torch.cat([y, z], 1)).log_prob(x) + model.log_prior[k] - kl
        by_hand += q[:, k] * (q[:, k].log() - bound)
    assert torch.allclose(u, by_hand, rtol=0, atol=1e-12)
    assert torch.allclose(terms["reconstruction"] + terms["kl"], u, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_objective_by_its_parts(share):
    # Over all N records: (1/N) [sum_labelled L + sum_others U] + alpha E_labelled[-log q(y|x)], equation 9 over N. The noise is one node,
    # so nothing is random but which labelled records a batch is given: every one of them, exactly once, here.
    x, label = clusters(100)
    data = load_data(x, label=label, validation=0, test=0)
    model = M2VAE(latent_dim=2, hidden=(8,), alpha=0.3, labelled=None if share == 1 else 50)
    model._adopt(data.schema, False)
    model.build(model.spec).double()
    model._prepare(data, 0)
    model.train()
    eps = torch.tensor([0.7, -1.2], dtype=torch.float64)

    class Once(Nodes):
        def randint(self, high: int, *shape: int) -> torch.Tensor:
            return torch.arange(shape[0]) % high

    rows = torch.arange(100)
    x, y = data.train.batch(rows, Rng.seeded(0, LIKE))
    ours = model._loss(Batch(x, None, rows, Once(eps))).per_record.mean()
    seen = ~model._seen._hidden
    assert int(seen.sum()) == 100 * share
    u, _ = model._unlabelled(x, Nodes(eps))
    a, b = model._parts(x, y[:, None], Nodes(eps))
    labelled = (a + b)[:, 0] - model.log_prior[0]
    classification = -(y * model.log_classes(x)).sum(1)
    known = (labelled[seen].sum() + u[~seen].sum()) / 100 + 0.3 * classification[seen].mean()
    assert torch.allclose(ours, known, rtol=1e-12)


def test_validation_uses_no_label():
    # Its positions are those of another split: the bound on p(x) alone must come out.
    data = data_of()
    model = M2VAE(latent_dim=2, hidden=(8,)).fit(data, steps=1, **QUIET)
    x, _ = data.validation.batch(torch.arange(20), Rng.seeded(0))
    loss = model.eval()._loss(Batch(x, None, torch.arange(20), Rng.seeded(1)))
    assert "classification" not in loss.terms
    assert torch.equal(loss.per_record, model._unlabelled(x, Rng.seeded(1))[0])


def test_bound_in_steps_and_with_a_condition():
    # The same draws whether K is taken at once or in steps; a conditional model bounds log p(x | y), an unconditional one log p(x).
    model, exact = linear_gaussian(5, 2, 3)
    x = Rng.seeded(0, LIKE).randn(4, 5)
    given, evidence, _, _ = exact(x)
    assert torch.allclose(model._log_prob(x, None, Rng.seeded(0, x), samples=7), evidence, rtol=0, atol=1e-10)
    y = torch.eye(3, dtype=torch.float64)[[2, 0, 1, 1]]
    assert torch.allclose(model._log_prob(x, y, Rng.seeded(0, x)), (given * y).sum(1), rtol=0, atol=1e-10)
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        model.log_prob(x, samples=0)


def test_joint_sums_over_classes():
    # log p(x) of the linear model by the trapezoid rule over z in a plane, at 5 steps to the narrowest deviation of the posterior (0.4).
    model, exact = linear_gaussian(4, 2, 3)
    x = Rng.seeded(0, LIKE).randn(3, 4)
    _, evidence, _, covariance = exact(x)
    step = float(covariance.diagonal().min().sqrt()) / 5
    t = torch.arange(-9, 9, step, dtype=torch.float64)
    z = torch.cartesian_prod(t, t)
    joint = model._joint()
    for record, known in zip(x, evidence):
        log_p = joint.log_prior(z, None) + joint.log_likelihood(record.expand(len(z), -1), z, None)
        assert abs(float(log_p.logsumexp(0) + 2 * math.log(step) - known)) < 1e-8


def test_class_prior_of_the_labels():
    x, label = clusters(400)
    keep = (label != "cow") | (np.arange(400) % 4 == 0)
    data = load_data(x[keep], label=label[keep])
    model = M2VAE(latent_dim=2, hidden=(8,), class_prior="labels").fit(data, steps=1, **QUIET)
    counts = torch.bincount(data.train.condition).double() + 1
    assert torch.allclose(model.log_prior.double().exp(), counts / counts.sum(), rtol=1e-6)  # float32
    drawn = model._labels(4000, None, None, Rng.seeded(0)).mean(0)
    assert torch.allclose(drawn.double(), counts / counts.sum(), atol=5 * 0.5 / math.sqrt(4000))  # five standard errors at most


def test_three_labels_name_three_clusters(fitted):
    test = data_of(1500).test
    assert (fitted.predict(test) == test.labels()).mean() > 0.95  # a third by chance
    for k, name in enumerate(NAMES):
        assert fitted.sample(300, label=name, seed=0).mean(0).argmax() == k
    everything = fitted.predict(fitted.sample(600, seed=0))
    assert all(0.2 < (everything == name).mean() < 0.47 for name in NAMES)  # a third each, give or take


def test_codes_are_a_class_and_a_style(fitted):
    x, _ = clusters(50, seed=1)
    code = fitted.encode(x)
    assert code.shape == (50, 4)
    assert (NAMES[code[:, :3].argmax(1)] == fitted.predict(x)).all()
    assert torch.equal(code[:, :3].sum(1), torch.ones(50))
    # What comes back is of its class: closer to its centre than the 4.2 half way to another, as a rule.
    back = fitted.decode(code)
    assert (fitted.predict(back) == fitted.predict(x)).all()


def test_a_condition_is_the_label():
    data = data_of()
    model = M2VAE(latent_dim=1, hidden=(16,)).fit(data, condition=True, steps=300, batch_size=64, lr=5e-3, **QUIET)
    for k, name in enumerate(NAMES):
        assert model.sample(300, condition=name, seed=0).mean(0).argmax() == k
    right = model.log_prob(data.test, condition=data.test.labels())
    assert (right > model.log_prob(data.test, condition=np.roll(NAMES, 1)[data.test.condition])).double().mean() > 0.9
    assert model.encode(data.test, condition=data.test.labels()).shape == (len(data.test), 1)
    assert (model.predict(data.test) == data.test.labels()).mean() > 0.9
    with pytest.raises(ConfigError, match="label= is for models fitted without a condition"):
        model.sample(3, condition="ant", label="ant")


# -- which labels are seen ------------------------------------------------------------------------------------------------


def test_labelled_rows_are_balanced_and_fixed_by_the_seed():
    codes = torch.tensor([0] * 50 + [1] * 30 + [2] * 4 + [-1] * 16)
    rows = labelled_rows(codes, 10, 0)
    assert torch.equal(rows, labelled_rows(codes, 10, 0))
    assert not torch.equal(rows, labelled_rows(codes, 10, 1))
    assert sorted(torch.bincount(codes[rows]).tolist()) == [3, 3, 4]
    assert torch.bincount(codes[labelled_rows(codes, 20, 0)]).tolist() == [8, 8, 4]  # all of a class that has no more
    assert torch.equal(labelled_rows(codes, None, 0), torch.arange(84))
    with pytest.raises(DataError, match="labelled=85, and only 84 training records have a label. Give labelled=84 or less."):
        labelled_rows(codes, 85, 0)


@pytest.mark.parametrize("family", [M2VAE, SemiSupervisedAAE, AdversarialAutoencoder])
def test_hidden_labels_influence_nothing(family):
    # The labels of records that are drawn after the last one seen are turned about: the same are seen, and every weight has the same bits.
    data = data_of(300)
    small = {"latent_dim": 2, "hidden": (8,), "labelled": 12}
    before = family(**small).fit(data, steps=8, batch_size=32, **QUIET)
    codes = data.train.condition.clone()
    rows = labelled_rows(codes, 12, 0)
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    late = order[int(torch.isin(order, rows).nonzero().max()) + 1 :]
    assert len(late) > 150
    data.train.condition[late] = codes[late].roll(1)
    assert not torch.equal(data.train.condition, codes)
    assert torch.equal(labelled_rows(data.train.condition, 12, 0), rows)
    after = family(**small).fit(data, steps=8, batch_size=32, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values()))
    # And a label that is seen does influence them.
    data.train.condition[rows] = data.train.condition[rows].roll(1)
    third = family(**small).fit(data, steps=8, batch_size=32, **QUIET)
    assert not all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), third.state_dict().values()))


@pytest.mark.parametrize("family", [M2VAE, SemiSupervisedAAE, AdversarialAutoencoder])
def test_resumes_with_the_same_labels(family):
    # The suite resumes models as they come; here only some labels are seen, and which must not change.
    check_resume(lambda: family(latent_dim=2, hidden=(8,), labelled=12))


def test_all_labels_or_a_few():
    data = data_of(300)
    everything, few = (Labelled.of(data, k, 0) for k in (None, 30))
    batch = Batch(data.train.tensor()[5:9], None, torch.arange(5, 9), Rng.seeded(0))
    x, y = everything.draw(batch)
    assert everything.share == 1
    assert torch.equal(x, batch.x)
    assert torch.equal(y.argmax(1), data.train.condition[5:9])
    x, y = few.draw(batch)
    assert few.share == pytest.approx(30 / len(data.train))
    assert len(few.records) == 30
    known = {tuple(r.tolist()): int(k) for r, k in zip(data.train.tensor(), data.train.condition)}
    assert [known[tuple(r.tolist())] for r in x] == y.argmax(1).tolist()
    assert few.hidden(Batch(x, None, torch.arange(len(data.train)), batch.rng)).sum() == len(data.train) - 30
    assert Labelled.of(data, 0, 0) is None


# -- the verbs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [M2VAE, SemiSupervisedAAE])
def test_predict_and_its_checks(family):
    x, label = clusters(300)
    with pytest.raises(NotFitted, match="predict was called before fit"):
        family().predict(x)
    model = family(latent_dim=2, hidden=(8,)).fit(load_data(x, label=label), steps=2, **QUIET)
    proba = model.predict_proba(x[:700])
    assert proba.shape == (300, 3)
    assert torch.allclose(proba.sum(1), torch.ones(300))
    assert (model.predict(x) == NAMES[proba.argmax(1)]).all()
    with pytest.raises(DataError, match="shape"):
        model.predict(np.zeros((3, 5), np.float32))
    with pytest.raises(DataError, match="condition"):
        model.sample(2, condition="ant")
    with pytest.raises(DataError, match="no class 'ants'"):
        model.sample(2, label="ants")
    assert not hasattr(AdversarialAutoencoder, "predict")


@pytest.mark.parametrize("family", [M2VAE, SemiSupervisedAAE])
def test_needs_labels_or_a_number_of_classes(family):
    x, label = clusters(300)
    with pytest.raises(DataError, match=r"needs labels, and this data set has none. Give load_data\(..., label=...\), or classes=K"):
        family().fit(x, steps=1, **QUIET)
    model = family(classes=4, latent_dim=2, hidden=(8,)).fit(x, steps=2, **QUIET)
    assert model.predict(x).max() <= 3
    assert model.sample(3, label=2, seed=0).shape == (3, 3)
    with pytest.raises(DataError, match="label=4 is none of the 4 classes"):
        model.sample(3, label=4)
    with pytest.raises(ConfigError, match="classes=5, and the labels name 3"):
        family(classes=5).fit(load_data(x, label=label), steps=1, **QUIET)
    with pytest.raises(ConfigError, match="labelled=2 leaves some of the 3 classes without a record. Give 3 or more."):
        family(labelled=2).fit(load_data(x, label=label), steps=1, **QUIET)
    with pytest.raises(DataError, match="are numbers, not classes"):
        family().fit(load_data(x, label=np.linspace(0, 1, 300)), steps=1, **QUIET)
    with pytest.raises(Unsupported, match="as levels, or as a table"):
        family(classes=2).build(DataSpec("image", (1, 8, 8), (categories(5),)))


def test_images_by_convolutions():
    random = np.random.default_rng(0)
    x = (random.random((80, 16, 16)) < 0.4).astype(np.uint8)
    for family in (M2VAE, SemiSupervisedAAE):
        model = family(latent_dim=3, hidden=(16,)).fit(load_data(x, label=np.arange(80) % 2), steps=2, batch_size=16, **QUIET)
        assert model.sample(2, label=1, seed=0).shape == (2, 16, 16)
        assert model.predict_proba(x[:5]).shape == (5, 2)
