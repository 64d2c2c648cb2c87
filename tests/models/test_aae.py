"""Adversarial autoencoders: losses at known critics, codes that follow their prior, petals and labels, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from toys import LIKE

import pushforward as pf
from pushforward.data import load_data
from pushforward.data.spec import BINARY, REAL, DataSpec, categories
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.metrics import kernel_distance
from pushforward.models.latent.adversarial_autoencoder import AdversarialAutoencoder, RadialMixture, known_answers
from pushforward.models.latent.semi_supervised_aae import SemiSupervisedAAE
from pushforward.rng import Rng
from pushforward.train import Batch

POINTS = DataSpec("points", (3,))
QUIET = {"progress": False, "alarms": False}


def build(spec: DataSpec = POINTS, **hyper) -> AdversarialAutoencoder:
    return AdversarialAutoencoder(**{"latent_dim": 2, "hidden": (16,), "critic_hidden": (16,), **hyper}).build(spec).double()


def batch_of(spec: DataSpec, n: int = 8) -> Batch:
    rng = Rng.seeded(0, LIKE)
    columns = [rng.randint(s.size, n).double() if s.size else rng.randn(n) for s in spec.columns]
    c = torch.eye(spec.condition_dim, dtype=torch.float64)[torch.arange(n) % spec.condition_dim] if spec.condition_dim else None
    return Batch(torch.stack(columns, 1), c, torch.arange(n), Rng.seeded(1, LIKE))


def clusters(n: int = 600, seed: int = 0):
    """Three Gaussians in three dimensions, 6 deviations apart, and their names."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, n)
    x = random.normal(size=(n, 3)) + 6 * np.eye(3)[label]
    return load_data(x.astype(np.float32), label=np.array(["ant", "bee", "cow"])[label])


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


def _constant_critic(net, bias: float) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.layers[-1].bias.fill_(bias)


@pytest.mark.parametrize("bias", [0.0, 1.7, -20.0])
def test_losses_at_a_constant_critic(bias):
    # T = b everywhere: the critic pays softplus(-b) + softplus(b), log 4 at b = 0, and the encoder softplus(-b); exact to rounding.
    model = build()
    _constant_critic(model.critic_net, bias)
    both = math.log1p(math.exp(-abs(bias))) * 2 + abs(bias)
    critic, encoder = model._critic_loss(batch_of(POINTS)), model._encoder_loss(batch_of(POINTS))
    assert torch.allclose(critic.per_record, torch.full((8,), both, dtype=torch.float64), rtol=1e-14)
    assert torch.allclose(encoder.per_record, torch.full((8,), (both - bias) / 2, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(critic.terms["D(real)"], torch.tensor(1 / (1 + math.exp(-bias)), dtype=torch.float64))


def _count_calls(net) -> list[bool]:
    """A list that grows by a call of `net`: whether it was to have a gradient."""
    calls: list[bool] = []
    net.register_forward_hook(lambda net, given, out: calls.append(out.requires_grad))
    return calls


@pytest.mark.parametrize("kind", [AdversarialAutoencoder, SemiSupervisedAAE])
def test_a_round_is_one_batch_and_its_critic_sees_the_codes_of_the_reconstruction(kind):
    hyper = {"classes": 3} if kind is SemiSupervisedAAE else {"posterior": "gaussian"}
    model = kind(latent_dim=2, hidden=(8,), critic_hidden=(8,), **hyper).build(POINTS).double()
    first, *others = model._objectives()
    assert first.fresh
    assert not any(o.fresh for o in others)
    critic = model.critic_z if kind is SemiSupervisedAAE else model.critic_net
    codes, calls, judged = [], _count_calls(model.encoder), []
    model.p_x.register_forward_pre_hook(lambda net, given: codes.append(given[0]))
    critic.register_forward_pre_hook(lambda net, given: judged.append(given[0]))
    batch = batch_of(POINTS)
    for objective in (first, *others):
        objective.loss(batch)
    assert calls == [True, True]  # for the reconstruction, and for the encoder's side of the game
    assert torch.equal(judged[1], codes[0])
    assert not judged[1].requires_grad
    # Another batch's codes are its own, and need no gradient here.
    model._critic_loss(batch_of(POINTS))
    assert calls == [True, True, False]
    # The round is the labelled one's, too, which draws its labels' records beside the batch.
    data = clusters()
    model = kind(latent_dim=2, hidden=(8,), critic_hidden=(8,), labelled=30)
    model.fit(data, steps=1, **QUIET)
    model.train()
    x, _ = data.train.batch(torch.arange(16), Rng.seeded(0))
    batch = Batch(x, None, torch.arange(16), Rng.seeded(1))
    calls = _count_calls(model.encoder)
    for objective in model._objectives():
        objective.loss(batch)
    assert len(calls) == (3 if kind is SemiSupervisedAAE else 1 + 1 + 2)


KINDS = {"normal": build(), "mixture": build(prior="mixture", posterior="gaussian"), "jointly": build(adversarial_weight=2.0)}


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_each_player_moves_only_itself(model):
    for objective in model._objectives():
        ours = {id(p) for p in objective.parameters()}
        for p in model.parameters():
            p.requires_grad_(id(p) in ours)
            p.grad = None
        out = objective.loss(batch_of(POINTS))
        assert out.per_record.shape == (8,)
        out.per_record.mean().backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None) == (id(p) in ours), (objective.name, name)
        assert all(not v.requires_grad for v in out.terms.values())


def test_one_step_has_the_gradient_of_both_turns():
    # With a deterministic code both turns see one z: gradients add up, exact to rounding, and one pass of the encoder does.
    jointly, turns = (build(DataSpec("points", (3,)), adversarial_weight=w) for w in (0.7, None))
    jointly.load_state_dict(turns.state_dict())
    batch, (together, critic) = batch_of(POINTS), jointly._objectives()
    assert (together.fresh, critic.fresh) == (True, False)
    calls = _count_calls(jointly.encoder)
    together.loss(batch).per_record.mean().backward()
    critic.loss(batch)
    assert calls == [True]
    first, _, last = turns._objectives()
    (first.loss(batch).per_record.mean() + 0.7 * last.loss(batch).per_record.mean()).backward()
    for (name, p), q in zip(jointly.named_parameters(), turns.parameters(), strict=True):
        if not name.startswith("critic"):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14, msg=name)
    with pytest.raises(ConfigError, match="adversarial_weight must be above 0"):
        build(adversarial_weight=0.0)


@pytest.mark.parametrize("weight", [None, 1.0])
def test_codes_follow_the_prior(weight):
    # A linear encoder can whiten a Gaussian exactly: the interval of the distance of held-out codes to the prior then reaches 0.
    # Before training it does not, so the test can fail.
    random = np.random.default_rng(0)
    x = random.normal(size=(5000, 2)) @ np.array([[2.0, 0.0], [1.5, 0.5]])
    data = load_data(x.astype(np.float32), validation=0.1, test=1000)
    prior = torch.from_numpy(random.normal(size=(1000, 2)))
    model = AdversarialAutoencoder(latent_dim=2, hidden=(), critic_hidden=(32,), likelihood="gaussian-shared", adversarial_weight=weight)
    model.fit(data, steps=1, **QUIET)
    before = kernel_distance(prior, model.encode(data.test), kernel="gaussian", bandwidth=1.0)
    assert before.low > 0
    model.fit(data, steps=600, batch_size=128, lr=1e-2, ema=0.98, **QUIET)
    after = kernel_distance(prior, model.encode(data.test), kernel="gaussian", bandwidth=1.0)
    assert after.low <= 0, after
    assert after.value < before.value / 20


def test_petals_of_given_components():
    # Draws of petal k have the mean radius (cos, sin)(2 pi k / K), to 5 standard errors of 0.5 / sqrt(4000), and lie in it.
    petals = RadialMixture(5, 4)
    k = torch.arange(20_000) % 5
    z = petals.sample(len(k), Rng.seeded(0, LIKE), k)
    for j in range(5):
        angle = 2 * math.pi * j / 5
        mean = torch.tensor([1.4 * math.cos(angle), 1.4 * math.sin(angle), 0.0, 0.0], dtype=torch.float64)
        error = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64) / math.sqrt(4000)
        assert ((z[k == j].mean(0) - mean).abs() < 5 * error).all()
        # Turned back, the spread is 0.5 along and 0.1 across, to 5 standard errors s / sqrt(2 n).
        along = z[k == j] @ mean / mean.norm()
        across = z[k == j, 1] * math.cos(angle) - z[k == j, 0] * math.sin(angle)
        assert abs(along.std() - 0.5) < 5 * 0.5 / math.sqrt(8000)
        assert abs(across.std() - 0.1) < 5 * 0.1 / math.sqrt(8000)
    log_k = petals.log_components(z)
    # Sideways the next of five petals is over 8 deviations away at the mean, and only its root, 2.8 deviations inside, is shared.
    assert (log_k.argmax(1) == k).double().mean() > 0.99
    # Independent definition: each petal as a rotated Gaussian.
    for j in range(5):
        angle = 2 * math.pi * j / 5
        turn = torch.eye(4, dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
        mean = turn @ torch.tensor([1.4, 0.0, 0.0, 0.0], dtype=torch.float64)
        covariance = turn @ torch.diag(torch.tensor([0.25, 0.01, 1.0, 1.0], dtype=torch.float64)) @ turn.T
        known = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z[:100])
        assert torch.allclose(log_k[:100, j], known, rtol=0, atol=1e-9)  # rounding of squares of order 1e3


def test_evidence_of_petals_in_closed_form():
    # x = W z + b + s e with z from petals: p(x) = mean_k N(W m_k + b, W S_k W^T + s^2 I). The joint, summed over a grid of z that is
    # 5 steps to the narrowest deviation wide, must give it: the trapezoid rule then errs by less than rounding.
    model = build(prior="mixture", components=3, hidden=(), likelihood="gaussian-unit")
    joint = model._joint()
    x = batch_of(POINTS, 3).x
    t = torch.linspace(-4.5, 4.5, 451, dtype=torch.float64)
    z = torch.cartesian_prod(t, t)
    layer = model.p_x.net.layers[0]
    with torch.no_grad():
        for record in x:
            log_p = joint.log_prior(z, None) + joint.log_likelihood(record.expand(len(z), -1), z, None)
            ours = log_p.logsumexp(0) + 2 * math.log(float(t[1] - t[0]))
            each = []
            for k in range(3):
                angle = 2 * math.pi * k / 3
                turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
                W = layer.weight @ turn
                covariance = W @ torch.diag(torch.tensor([0.25, 0.01], dtype=torch.float64)) @ W.T + torch.eye(3, dtype=torch.float64)
                each.append(torch.distributions.MultivariateNormal(1.4 * W[:, 0] + layer.bias, covariance).log_prob(record))
            assert abs(float(ours - torch.stack(each).logsumexp(0) + math.log(3))) < 1e-8


@pytest.mark.parametrize(("labelled", "steps"), [(None, 500), (60, 500)])
def test_each_class_is_led_to_its_petal(labelled, steps):
    data = clusters()
    model = AdversarialAutoencoder(latent_dim=2, prior="mixture", labelled=labelled, hidden=(32,), critic_hidden=(64, 64))
    model.fit(data, steps=steps, batch_size=64, lr=2e-3, ema=0.98, **QUIET)
    assert model._mixture is not None
    assert model._mixture.components == 3
    petal = model._mixture.log_components(model.encode(data.test)).argmax(1)
    assert (petal == data.test.condition).double().mean() > 0.9  # a third by chance


def test_records_without_label_bear_the_extra_class():
    model = AdversarialAutoencoder(latent_dim=2, labelled=30, prior="mixture", hidden=(8,), critic_hidden=(8,))
    data = clusters()
    model.fit(data, steps=1, **QUIET)
    seen = []
    model.critic_net.register_forward_hook(lambda net, given, out: seen.append(given[1]))
    model.train()
    x, _ = data.train.batch(torch.arange(16), Rng.seeded(0))
    model._critic_loss(Batch(x, None, torch.arange(16), Rng.seeded(1)))
    unknown, known = seen[0], seen[2]
    assert torch.equal(unknown, torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(16, -1))
    assert known.shape == (16, 4)
    assert torch.equal(known.sum(1), torch.ones(16))
    assert (known[:, 3] == 0).all()


def test_condition_reaches_the_decoder():
    # One number as code for three, so that the label has something to say.
    data = clusters()
    model = AdversarialAutoencoder(latent_dim=1, hidden=(32,), critic_hidden=(32,))
    model.fit(data, condition=True, steps=300, batch_size=64, lr=2e-3, **QUIET)
    for k, name in enumerate(("ant", "bee", "cow")):
        assert model.sample(400, condition=name, seed=0).mean(0).argmax() == k


def test_mixed_table_images_and_gaussian_codes():
    mixed = DataSpec("table", (3,), (REAL, categories(3), BINARY))
    model = build(mixed, posterior="gaussian")
    x = model._sample(50, None, Rng.seeded(0, LIKE))
    assert set(x[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert set(x[:, 2].tolist()) <= {0.0, 1.0}
    batch = batch_of(mixed)
    a, b = (model._reconstruction_loss(Batch(batch.x, None, batch.index, Rng.seeded(s, LIKE))).per_record for s in (0, 1))
    assert not torch.equal(a, b)  # codes are drawn
    assert torch.equal(model._encode(batch.x, None), model._encode(batch.x, None))
    conv = build(DataSpec("image", (1, 16, 16), (BINARY,)), network="conv")
    assert conv._encode(torch.zeros(2, 1, 16, 16, dtype=torch.float64), None).shape == (2, 2)


def test_refuses():
    model = build()
    for verb, remedy in (("log_prob", "evidence"), ("posterior", "encode")):
        with pytest.raises(Unsupported, match=remedy):
            getattr(model, verb)(torch.zeros(2, 3))
        assert not AdversarialAutoencoder.supports(verb)
    assert not SemiSupervisedAAE.supports("log_prob")
    with pytest.raises(ConfigError, match="latent_dim of at least 2"):
        build(latent_dim=1, prior="mixture")
    with pytest.raises(ConfigError, match=r"prior='petals' is not known. Choose 'normal' or 'mixture'"):
        build(prior="petals")
    with pytest.raises(ConfigError, match="each of the 3 classes needs a petal of its own"):
        AdversarialAutoencoder(prior="mixture", components=10, labelled=None).fit(clusters(), steps=1, **QUIET)
    with pytest.raises(DataError, match=r"needs labels.*load_data\(..., label=...\)"):
        AdversarialAutoencoder(labelled=20).fit(np.random.default_rng(0).normal(size=(300, 2)), steps=1, **QUIET)
    with pytest.raises(Unsupported, match="as levels, or as a table"):
        AdversarialAutoencoder().build(DataSpec("image", (1, 8, 8), (categories(5),)))


# -- with a class and a style ---------------------------------------------------------------------------------------------


def test_both_critics_and_the_classifier_at_known_values():
    # Both critics constant, at b and c: the critics pay the sum of the two games; a linear encoder of zeros gives all classes alike,
    # so the cross-entropy is log 3.
    model = SemiSupervisedAAE(classes=3, latent_dim=2, hidden=(8,), critic_hidden=(8,)).build(POINTS).double()
    _constant_critic(model.critic_y, 0.5)
    _constant_critic(model.critic_z, -1.0)
    pay = lambda t: math.log1p(math.exp(t))
    critics = pay(-0.5) + pay(0.5) + pay(1.0) + pay(-1.0)
    ones = torch.ones(8, dtype=torch.float64)
    assert torch.allclose(model._critic_loss(batch_of(POINTS)).per_record, critics * ones, rtol=1e-14)
    assert torch.allclose(model._encoder_loss(batch_of(POINTS)).per_record, (pay(-0.5) + pay(1.0)) * ones, rtol=1e-14)
    with torch.no_grad():
        model.encoder.layers[-1].weight.zero_()
    assert torch.allclose(model._predict_proba(batch_of(POINTS).x), torch.full((8, 3), 1 / 3, dtype=torch.float64))


def test_three_labels_name_three_clusters():
    data = clusters(1500)
    model = SemiSupervisedAAE(labelled=3, latent_dim=1, hidden=(32,), critic_hidden=(32,))
    model.fit(data, steps=300, batch_size=64, lr=2e-3, **QUIET)
    assert (model.predict(data.test) == data.test.labels()).mean() > 0.95
    for k, name in enumerate(("ant", "bee", "cow")):
        assert model.sample(300, label=name, seed=0).mean(0).argmax() == k
    code = model.encode(data.test)
    assert code.shape == (len(data.test), 4)
    assert torch.allclose(code[:, :3].sum(1), torch.ones(len(code)))


def test_evidence_sums_over_classes():
    model = SemiSupervisedAAE(classes=3, latent_dim=2, hidden=(8,), critic_hidden=(8,)).build(POINTS).double()
    x, z = batch_of(POINTS).x, Rng.seeded(5, LIKE).randn(8, 2)
    each = [model.likelihood(torch.cat([torch.eye(3)[k].expand(8, -1), z], 1)).log_prob(x).exp() for k in range(3)]
    ours = model._joint().log_likelihood(x, z, None)
    assert torch.allclose(ours, (sum(each) / 3).log(), rtol=0, atol=1e-10)  # rounding
    assert pf.catalog()["ssaae"] is SemiSupervisedAAE
