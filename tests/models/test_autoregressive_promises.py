"""What every autoregressive family of vectors and images promises, family by family; by enumeration of all 2^12 binary records."""

import math

import pytest
import torch
from torch import Tensor

from pushforward.data.spec import BINARY, DataSpec, categories, levels
from pushforward.models.exact import made, nade, pixelcnnpp, pixelrnn, pixels, sequence_draws
from pushforward.models.exact.autoregressive import MADE, PixelCNN, enumerated
from pushforward.models.exact.nade import NADE
from pushforward.models.exact.pixelcnnpp import PixelCNNPP
from pushforward.models.exact.pixelrnn import PixelRNN
from pushforward.models.exact.recurrent import Recurrent
from pushforward.models.exact.transformer import Transformer
from pushforward.rng import Rng

FAMILIES = {
    "made": lambda: MADE(hidden=(24, 24)),
    "made, natural, 3 masks": lambda: MADE(hidden=(24, 24), masks=3),
    "made, random, 3 masks": lambda: MADE(hidden=(24, 24), order="random", masks=3, direct=True),
    "made, random, 3 masks of their own": lambda: MADE(hidden=(12, 12), order="random", masks=3, shared=False),
    "nade": lambda: NADE(hidden=12),
    "nade, random": lambda: NADE(hidden=12, order="random"),
    "pixelcnn": lambda: PixelCNN(layers=3, channels=8),
    "pixelrnn, row": lambda: PixelRNN(kind="row", layers=2, hidden=6),
    "pixelrnn, diagonal": lambda: PixelRNN(layers=2, hidden=6),
    "pixelcnn++": lambda: PixelCNNPP(channels=6, blocks=1, components=3),
    "pixelcnn++, 3 resolutions": lambda: PixelCNNPP(channels=6, blocks=2, resolutions=3, components=3),
    "recurrent": lambda: Recurrent(hidden=8, layers=2),
    "transformer": lambda: Transformer(width=8, layers=2, heads=2),
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def image(*shape: int, support=BINARY, condition: int = 0) -> DataSpec:
    return DataSpec("image", shape, (support,), condition)


def rough(family: str, spec: DataSpec, dtype=torch.float64, by: float = 2.0, noise: float = 0.2):
    """Random weights far from uniform predictions; biases too, which start at 0 in some."""
    model = FAMILIES[family]().build(spec, seed=3).to(dtype)
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(by).add_(noise * torch.randn(p.shape, generator=g).to(dtype))
    return model


def condition(spec: DataSpec, n: int, dtype=torch.float64) -> Tensor | None:
    return torch.eye(spec.condition_dim, dtype=dtype)[torch.arange(n) % spec.condition_dim] if spec.condition_dim else None


@pytest.mark.parametrize("module", [nade, pixelrnn, pixelcnnpp])
def test_known_answers(module) -> None:
    assert [f"{k.name}: {k.ours}, not {k.known}" for k in module.known_answers() if not k.holds] == []


@EACH
@pytest.mark.parametrize("conditional", [0, 2])
def test_all_binary_images_have_probability_1_together(family: str, conditional: int) -> None:
    x, log_p = enumerated(rough(family, image(1, 3, 4, condition=conditional)))
    assert len(x) == 4096
    # Each is exp of 12 logs, with relative errors below 1e-13.
    assert abs(float(log_p.exp().sum()) - 1) < 1e-11
    assert float(log_p.exp().max()) > 2 / 4096  # not uniform


def conditionals(model, x: Tensor, c: Tensor | None) -> Tensor:
    """(B, D): a number for each entry that depends on all parameters of its conditional."""
    if isinstance(model, MADE):
        return torch.stack([model._params(x, c, o) for o in model.orderings]).square().sum(0)
    if isinstance(model, NADE):
        return model._params(x, c).square()
    if isinstance(model, PixelCNNPP):
        return whole_pixels(model, x, c)
    return model.net(model._input(x), c).square().sum(-1).flatten(1)


def whole_pixels(model, x: Tensor, c: Tensor | None) -> Tensor:
    """The parameters of each channel's conditionals: those of its pixel, and what the channels before do to them."""
    y = model.features.encode(x)
    log_pi, theta, a = model._parts(model.net(y, c))
    y = y.permute(0, 2, 3, 1)
    each = [model._channel(g, theta, a, y).square().sum((-1, -2)) + log_pi.square().sum(-1) for g in range(x.shape[1])]
    return torch.stack(each, 1).flatten(1)


ORDERED = [f for f in FAMILIES if "masks" not in f]


@pytest.mark.parametrize("family", [f for f in ORDERED if f not in ("recurrent", "transformer")])  # symbols: see test_sequence_images
@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 3, 3)])
def test_no_gradient_from_later_pixels(family: str, shape: tuple[int, ...]) -> None:
    """In the order of the choices the Jacobian is strictly lower triangular; NADE and the diagonal LSTM see all before, but for one."""
    spec = image(*shape, condition=2)
    model, D = rough(family, spec), math.prod(shape)
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda z: conditionals(model, z, condition(spec, 6)).sum(0), x).abs().sum(1).view(D, D)
    order = getattr(model, "sequence", None) or (model.net.sequence if isinstance(model, MADE) else None)
    if order is None:
        order = torch.arange(D).view(shape).movedim(0, -1).flatten()
    J = J[order][:, order]
    assert torch.all(J.triu() == 0)
    before = torch.ones_like(J).tril(-1).bool()
    if family == "pixelrnn, diagonal" and shape == (1, 4, 5):
        before[torch.arange(5, 20, 5), torch.arange(4, 19, 5)] = False  # the last pixel of the row above, 4 columns away: see PixelRNN
        assert torch.all(J[torch.arange(5, 20, 5), torch.arange(4, 19, 5)] == 0)
    if "nade" in family or family == "pixelrnn, diagonal":
        assert torch.all(J[before] > 0)


CASES = [image(1, 4, 5), image(1, 3, 4, support=levels(5), condition=3), image(2, 3, 2, support=levels(3))]


def seen(model, monkeypatch, spec: DataSpec, incremental: bool, temperature: float) -> tuple[Tensor, list[Tensor]]:
    """Records from a seed, and the parameters of each choice."""
    logits: list[Tensor] = []
    for module, name in ((made, "draw"), (nade, "draw"), (pixels, "pick"), (pixelcnnpp, "pick"), (sequence_draws, "shaped")):
        original = getattr(module, f"_own_{name}", None) or getattr(module, name)
        monkeypatch.setattr(module, f"_own_{name}", original, raising=False)

        def heard(*args, _original=original, _at=1 if name == "draw" else 0):
            logits.append(args[_at].clone())
            return _original(*args)

        monkeypatch.setattr(module, name, heard)
    p = next(model.parameters())
    with torch.no_grad():
        x = model._sample(7, condition(spec, 7, p.dtype), Rng.seeded(5, p), incremental=incremental, temperature=temperature)
    return x, logits


@EACH
@pytest.mark.parametrize("spec", CASES)
@pytest.mark.parametrize(("dtype", "by", "tolerance", "temperature"), [(torch.float64, 2.0, 1e-9, 1.0), (torch.float32, 1.0, 1e-5, 0.6)])
def test_cached_and_full_sampling_have_the_same_logits_and_records(family, spec, dtype, by, tolerance, temperature, monkeypatch) -> None:
    """Sums of fewer than 1000 terms of order 1, layer on layer: 1e-6 in float32 at weights of the usual size, 1e-13 in float64, whose
    margin is for rough weights that blow rounding up.
    """
    model = rough(family, spec, dtype, by, 0.05)
    a, cached = seen(model, monkeypatch, spec, True, temperature)
    b, full = seen(model, monkeypatch, spec, False, temperature)
    assert len(cached) == len(full) >= spec.dim
    for i, j in zip(cached, full, strict=True):
        torch.testing.assert_close(i, j, rtol=tolerance, atol=tolerance)
    assert torch.equal(a, b)  # a choice that differs has probability below 1e-3 over all cases
    assert a.unique().numel() > 1


@pytest.mark.parametrize("family", [f for f in FAMILIES if "pixel" in f])
@pytest.mark.parametrize("support", [BINARY, levels(3)])
def test_the_choices_of_the_sampler_multiply_to_log_prob(family: str, support, monkeypatch) -> None:
    """Three channels: what each choice was drawn from, at what was chosen, sums to log p(x); 12 logs in float64."""
    spec = image(3, 2, 2, support=support)
    model = rough(family, spec)
    x, logits = seen(model, monkeypatch, spec, True, 1.0)
    chosen = x.permute(2, 3, 1, 0).reshape(12, -1).long()
    # A Bernoulli has one number, the logit of 1 against 0.
    rows = [torch.cat([torch.zeros_like(p), p]) if len(p) == 1 else p for p in logits]
    total = sum(p.log_softmax(0).gather(0, v[None])[0] for p, v in zip(rows, chosen, strict=True))
    torch.testing.assert_close(total, model._log_prob(x, None, Rng.seeded(0)), rtol=0, atol=1e-9)


def tempered(x: Tensor, log_p: Tensor, order: list[int], T: float) -> Tensor:
    """The chain of p(x_d | x_{<d})^{1/T}, each made to sum to 1, from the joint by brute force."""
    flat, out = x.flatten(1), torch.zeros_like(log_p)

    def log_marginal(entries: list[int], at: Tensor) -> Tensor:
        same = (flat[:, entries] == at[entries]).all(1)
        return log_p[same].logsumexp(0)

    for r, record in enumerate(flat):
        for place, d in enumerate(order):
            before = order[:place]
            each = []
            for value in flat[:, d].unique():
                other = record.clone()
                other[d] = value
                each.append(log_marginal([*before, d], other) - log_marginal(before, other))
            p = (torch.stack(each) / T).log_softmax(0)
            out[r] += p[int(record[d])]
    return out.exp()


def matches(samples: Tensor, x: Tensor, p: Tensor) -> None:
    """Every frequency within 5 standard errors (and 2 / n for the rarest): a false alarm below 1e-4 for a hundred cells."""
    n = len(samples)
    cells = (samples.flatten(1)[:, None] == x.flatten(1)).all(2).double().mean(0)
    assert math.isclose(float(cells.sum()), 1.0, abs_tol=1e-9)
    assert torch.all((cells - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 2 / n)


@pytest.mark.parametrize("family", ORDERED)
def test_a_temperature_sharpens_every_choice(family: str) -> None:
    spec = image(1, 2, 2, support=levels(3))
    model = rough(family, spec)
    x, log_p = enumerated(model)
    order = getattr(model, "sequence", None) or (model.net.sequence if isinstance(model, MADE) else list(range(4)))
    with torch.no_grad():
        samples = model._sample(4000, None, Rng.seeded(1, x), temperature=0.5)
    matches(samples, x, tempered(x, log_p, list(order), 0.5))


KNOWN = torch.tensor([[[1, 1, 1], [1, 0, 0]]]).bool()


@EACH
@pytest.mark.parametrize("conditional", [0, 2])
def test_completions_follow_the_conditional_of_the_enumerated_joint(family: str, conditional: int) -> None:
    """P(unknown | known) = p(x) / sum over the unknown, by brute force."""
    if "random" in family:
        pytest.skip("see the agnostic MADE")
    model = rough(family, image(1, 2, 3, condition=conditional))
    if isinstance(model, MADE):  # several masks in one order: the completion is that of the first
        model.orderings = model.orderings[:1]
    x, log_p = enumerated(model)
    fact = x[37].clone()
    same = (x[:, KNOWN] == fact[KNOWN]).all(1)
    p = torch.where(same, log_p.exp(), 0)
    junk = torch.where(KNOWN, fact, 1 - fact).expand(2000, -1, -1, -1)  # what stands at unknown places must not matter
    c = torch.eye(2, dtype=torch.float64)[:1].expand(2000, -1) if conditional else None
    with torch.no_grad():
        samples = model._complete(junk, KNOWN, c, Rng.seeded(2, x))
    matches(samples, x, p / p.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_label_changes_the_probabilities_and_the_samples(family: str) -> None:
    spec = image(1, 3, 4, condition=2)
    model = rough(family, spec)
    x = torch.ones(2, 1, 3, 4, dtype=torch.float64)
    a, b = model._log_prob(x, condition(spec, 2), Rng.seeded(0)).tolist()
    assert abs(a - b) > 1e-6
    with torch.no_grad():
        first = model._sample(64, condition(spec, 2)[:1].expand(64, -1), Rng.seeded(0, x))  # pyright: ignore[reportOptionalSubscript]
        second = model._sample(64, condition(spec, 2)[1:].expand(64, -1), Rng.seeded(0, x))  # pyright: ignore[reportOptionalSubscript]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", ["pixelrnn, row", "pixelrnn, diagonal"])
def test_grids_of_categories_are_modelled(family: str) -> None:
    model = rough(family, image(2, 2, 1, support=categories(3)))
    assert abs(float(enumerated(model)[1].exp().sum()) - 1) < 1e-11
