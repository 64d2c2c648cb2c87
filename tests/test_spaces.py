"""Feature spaces: against independent definitions, seeded, cached, handed over; Inception against torch-fidelity's own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.data import Data, Records, load_data
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, levels
from pushforward.errors import ConfigError, DataError, RunError, Unsupported
from pushforward.nn.extractors import FeatureEncoder, RandomConv, shrunk
from pushforward.nn.inception import InceptionV3, resize_like_tensorflow
from pushforward.spaces import FeatureSpace, inception_space, read_spaces, spaces, write_spaces
from pushforward.spaces.space import _rgb


def some_digits(n: int = 400, label: bool = True) -> Data:
    data = load_data("digits", seed=0)
    schema = data.schema if label else data.schema.with_condition(None)
    parts = (data.train[:n], data.validation, data.test)
    return Data(schema, *(Records(schema, r.x, r.condition if label else None) for r in parts))


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", seed=0)


@pytest.fixture(scope="module")
def learned(digits: Data) -> FeatureSpace:
    return spaces(digits, which="learned", cache=False)["learned"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that is too short to learn much, where only its being done or not is looked at."""
    monkeypatch.setattr("pushforward.spaces.learned.STEPS", {"classifier": 20, "contrast": 20})


def knn(space: FeatureSpace, train: Records, test: Records, k: int = 5) -> float:
    """Share of test records whose label is that of most of their k nearest training records."""
    assert train.condition is not None
    assert test.condition is not None
    a, b = space(train.tensor()), space(test.tensor())
    votes = torch.nn.functional.one_hot(train.condition[torch.cdist(b, a).topk(k, largest=False).indices], 10).sum(1)
    return float((votes.argmax(1) == test.condition).double().mean())


# -- which spaces ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_images_have_three_spaces_and_the_learned_one_leads(tmp_path: Path):
    found = spaces(some_digits(60), cache=tmp_path)
    assert list(found) == ["learned", "random-conv", "pca"]
    for key, space in found.items():
        assert space.key == key
        assert "FID" not in space.name
        f = space(some_digits().test.tensor())
        assert (f.shape, f.dtype) == ((180, space.dim), torch.float64)
        assert f.isfinite().all()


def test_points_and_tables_have_their_columns():
    points = load_data("ring", n=500)
    found = spaces(points)
    assert {k: s.name for k, s in found.items()} == {"raw": "standardised coordinates"}
    assert found["raw"](points.train.tensor()).square().mean(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert spaces(points, which="pca")["pca"].dim == 2


def test_errors_name_the_remedy():
    points, images = load_data("ring", n=100), some_digits(40)
    with pytest.raises(ConfigError, match="There is no feature space 'learnt'. Did you mean 'learned'?"):
        spaces(images, which="learnt")
    with pytest.raises(ConfigError, match=r"'random-conv' is for images; these records are points. Use 'raw' or 'pca'."):
        spaces(points, which=["random-conv"])
    with pytest.raises(ConfigError, match=r"needs the user's file: spaces\(data, inception='inception.safetensors'\)"):
        spaces(images, which=["inception"])
    raw = spaces(images, which="raw")["raw"]
    with pytest.raises(DataError, match=r"Records have shape \(1, 8, 9\); the space of the pixels was made for \(1, 8, 8\)."):
        raw(torch.zeros(3, 1, 8, 9))
    with pytest.raises(Unsupported, match=r"names no classes. Give the data labels and use the learned space."):
        raw.classify(images.test.tensor())


# -- raw and pca ----------------------------------------------------------------------------------------------------


def test_principal_components_are_scikit_learns(digits: Data):
    from sklearn.decomposition import PCA

    space = spaces(digits, which="pca")["pca"]
    x = digits.train.tensor(torch.float64)
    theirs = PCA(space.dim, svd_solver="full").fit(x.flatten(1) / 8 - 1)  # levels(17) are scaled to [-1, 1]
    mine, other = space(digits.test.tensor()), torch.from_numpy(theirs.transform(digits.test.tensor(torch.float64).flatten(1) / 8 - 1))
    # Axes are equal up to sign; eigenvalues of digits lie 1e-3 apart at least, so rounding (1e-16) turns them by 1e-12.
    assert torch.allclose(mine.abs(), other.abs(), atol=1e-10)
    share = theirs.explained_variance_ratio_.sum()
    assert 0.95 <= share < 0.95 + theirs.explained_variance_ratio_[-1]
    assert space.name == f"{space.dim} principal components of the pixels ({share:.0%} of the variance)"


def test_raw_keeps_distances_between_pixels(digits: Data):
    x = digits.test.tensor(torch.float64)
    f = spaces(digits, which="raw")["raw"](x)
    # cdist takes the root of a difference of squares of size 60: sqrt(60 * 2.2e-16) = 1e-7 off at worst
    assert torch.allclose(torch.cdist(f, f), torch.cdist(x.flatten(1), x.flatten(1)) / 8, atol=1e-6)


def test_large_images_are_averaged_down_before_their_components():
    g = torch.Generator().manual_seed(0)
    spec = DataSpec("image", (1, 130, 20), (UNIT,))
    x = torch.rand(30, 1, 130, 20, generator=g)
    space = FeatureSpace.fit(x, spec)
    assert shrunk(spec.shape, 64) == (1, 44, 7)
    assert space.mean.shape == (44 * 7,)
    # The last row and column of squares hold 130 - 43 * 3 = 1 row and 20 - 6 * 3 = 2 columns: means of what is there.
    corner = (x[:, 0, 129:, 18:].double() * 2 - 1).mean((0, 1, 2))
    assert float(space.mean[-1]) == pytest.approx(float(corner), abs=1e-6)
    assert "averaged down to at most 64 a side" in space.name


# -- random filters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 20), (1, 1, 3), (2, 5, 1)])
def test_random_filters_take_any_image(shape: tuple[int, int, int]):
    net = RandomConv(shape, 16, torch.Generator().manual_seed(0))
    f = net(torch.rand(4, *shape, generator=torch.Generator().manual_seed(1)))
    quarters = min(2, shape[1]) * min(2, shape[2])
    assert f.shape == (4, net.scales * 16 * quarters)
    first = net.kernels[0].flatten(1)
    assert torch.equal(first[:8], -first[8:])
    if 9 * shape[0] >= 8:
        assert torch.allclose(first[:8] @ first[:8].T, 2 * torch.eye(8), atol=1e-5)


def test_random_features_are_standardised_and_seeded(digits: Data):
    one, again, other = (spaces(digits, which="random-conv", seed=s)["random-conv"] for s in (0, 0, 1))
    f = one(digits.train.tensor())
    # float32 features, of which 1,437 are averaged in float64
    assert float(f.mean(0).abs().max()) < 1e-5
    sd = f.std(0, correction=0)
    alive = sd > 0  # a filter may see nothing but background in its quarter
    assert float(alive.double().mean()) > 0.98
    assert sd[alive].numpy() == pytest.approx(np.ones(int(alive.sum())), abs=1e-5)
    assert torch.equal(f, again(digits.train.tensor()))
    assert not torch.allclose(f, other(digits.train.tensor()), atol=0.1)


def test_a_filter_without_response_does_not_shout():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, 8, 8, generator=g)
    x[:, :, :, 4:] = 0.0  # half of the image is dark in every record
    space = spaces(load_data(x.numpy(), support="unit", test=0.2), which="random-conv")["random-conv"]
    assert float(space(torch.rand(5, 1, 8, 8, generator=g)).abs().max()) < 1e3
    assert float(1 / space.scale.min()) <= 100.1 * float((1 / space.scale).square().mean().sqrt())


def test_batches_do_not_matter(digits: Data, monkeypatch: pytest.MonkeyPatch):
    x = digits.test.tensor()
    for key in ("raw", "random-conv"):
        space = spaces(digits, which=key)[key]
        whole = space(x)
        with monkeypatch.context() as patch:
            patch.setattr(FeatureSpace, "batch", property(lambda self: 7))
            # float32 convolutions may sum in another order for another batch: a few roundings of numbers up to 20
            assert torch.allclose(space(x), whole, atol=0 if key == "raw" else 1e-4)
        assert space(x[:0]).shape == (0, space.dim)


# -- learned --------------------------------------------------------------------------------------------------------


def test_the_classifier_names_classes_and_says_how_well(digits: Data, learned: FeatureSpace):
    codes = learned.classify(digits.test.tensor())
    right = float((codes == digits.test.condition).double().mean())
    assert learned.details["accuracy"] == right
    assert learned.details["accuracy_records"] == 180
    assert right >= 0.95  # 8 x 8 digits: logistic regression has 0.95 to 0.97
    assert learned.classes == tuple(range(10))
    assert f"({right:.1%} of held-out records classified rightly)" in learned.name
    assert knn(learned, digits.train, digits.test) >= 0.95
    f = learned(digits.train.tensor())
    # scaled as a whole: mean 0, mean variance 1
    assert float(f.mean(0).abs().max()) < 1e-6
    assert float(f.square().mean()) == pytest.approx(1.0, abs=1e-6)


def test_missing_classes_and_blur_are_seen(digits: Data, learned: FeatureSpace):
    from pushforward.metrics import precision_recall_density_coverage as prdc

    def figures(fake: Tensor) -> tuple[float, float]:
        found = prdc(learned(real), learned(fake))
        return float(getattr(found.precision, "value", found.precision)), float(getattr(found.coverage, "value", found.coverage))

    x, labels = digits.train.tensor(), digits.train.condition
    assert labels is not None
    real, fresh, classes = x[:700], x[700:1400], labels[700:1400]
    precision, coverage = figures(fresh)
    kept = (classes < 8).nonzero().flatten()
    # The digits 8 and 9 are a fifth of all; their neighbourhoods are left alone, save where 8 looks like 3.
    missing = figures(fresh[torch.cat([kept, kept])[:700]])
    assert missing[1] < coverage - 0.08
    assert missing[0] > precision - 0.05
    mean = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(fresh, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert figures(mean)[0] < precision - 0.3


def test_features_know_damage(digits: Data, learned: FeatureSpace):
    from pushforward.rng import Rng
    from pushforward.spaces.learned import DAMAGES, _damaged

    encoder: FeatureEncoder = learned.net.encoder  # type: ignore[assignment]
    x = torch.cat([digits.test.tensor(), digits.validation.tensor()]) / 8 - 1
    broken, kind = _damaged(x, Rng.seeded(3))
    assert torch.equal(broken[kind == 0], x[:180][kind == 0])
    for what in range(1, len(DAMAGES)):
        moved = (broken - x[:180])[kind == what].abs().flatten(1).amax(1)
        assert float((moved > 0).double().mean()) > 0.9  # two halves may fit
    smooth = broken[kind == 1]
    # 1, 2, 1 has no negative weight and sums to 1: nothing leaves the range, and dark and bright places approach each other
    assert float(smooth.amax()) <= 1.0
    assert float(smooth.std()) < float(x[:180][kind == 1].std())
    right = (encoder.damage(encoder.features(broken)).argmax(1) == kind).double().mean()
    assert float(right) > 0.5  # of 4 kinds, so a guess is right in a quarter: 0.25 + 4 standard errors of 0.032 is 0.38


def test_without_labels_the_encoder_learns_by_contrast():
    data = some_digits(label=False)
    space = spaces(data, which="learned", cache=False)["learned"]
    assert space.name == "64 features of a contrastive encoder trained on the training records"
    assert space.classes == ()
    with pytest.raises(Unsupported, match="names no classes"):
        space.classify(data.test.tensor())
    known = some_digits()
    untrained = FeatureSpace("learned", "", data.spec, space.mean * 0, space.scale * 0 + 1, {**space.network})
    assert knn(space, known.train, known.test) > max(0.9, knn(untrained, known.train, known.test))


@pytest.mark.usefixtures("quick")
def test_training_is_seeded_and_leaves_the_global_random_state_alone():
    data = some_digits(60)
    state = torch.get_rng_state()
    first, second, third = (spaces(data, which="learned", seed=s, cache=False)["learned"] for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    x = data.test.tensor()
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))


@pytest.mark.parametrize("how", ["no validation", "dynamic", "real", "vector condition"])
@pytest.mark.usefixtures("quick")
def test_every_kind_of_images_is_learnt(how: str):
    images = load_data("digits").train.x[:80, 0].numpy()
    if how == "no validation":
        data = load_data(images, support="levels(17)", label=np.arange(80) % 4, validation=0, test=0)
    elif how == "dynamic":
        data = load_data((images * 15).astype(np.uint8), binarize="dynamic", label=["a", "b"] * 40)
    elif how == "real":
        data = load_data(images.astype(np.float32) + np.random.default_rng(0).random(images.shape, dtype=np.float32))
    else:
        data = load_data(images, support="levels(17)", label=np.random.default_rng(0).normal(size=(80, 2)))
    space = spaces(data, which="learned", cache=False)["learned"]
    assert space(data.train.tensor()).isfinite().all()
    assert bool(space.classes) == (how in ("no validation", "dynamic"))
    assert ("accuracy" in space.details) == (how in ("no validation", "dynamic"))
    json.dumps(space.tensors()[1])


def test_a_record_never_changes_anothers_features():
    net = FeatureEncoder((1, 8, 8), 3, 2)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not list(net.buffers())
    assert torch.allclose(net.features(x)[:1], net.features(x[:1]), atol=1e-6)


# -- cache ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_cached_space_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    data = some_digits(60)
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path))
    first = spaces(data, which="learned")["learned"]
    (kept,) = (tmp_path / "spaces").iterdir()
    x, wanted = data.test.tensor(), first(data.test.tensor())

    with monkeypatch.context() as patch:
        patch.setattr("pushforward.train.train", lambda *a, **k: pytest.fail("trained again"))
        again = spaces(data, which="learned")["learned"]
    assert torch.equal(again(x), wanted)
    assert torch.equal(again.classify(x), first.classify(x))
    assert (again.name, again.details) == (first.name, first.details)
    assert capsys.readouterr().err == ""

    # One byte flipped in the middle
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert torch.equal(spaces(data, which="learned")["learned"](x), wanted)
    assert "The cached learned features cannot be read and are made again." in capsys.readouterr().err
    with monkeypatch.context() as patch:  # and kept again
        patch.setattr("pushforward.train.train", lambda *a, **k: pytest.fail("trained again"))
        spaces(data, which="learned")

    assert data.train.condition is not None
    # Other records, other labels or another seed belong to other files
    relabelled = Data(data.schema, Records(data.schema, data.train.x, data.train.condition.flip(0)), data.validation, data.test)
    spaces(relabelled, which="learned")
    spaces(data, which="learned", seed=1)
    files = sorted((tmp_path / "spaces").iterdir())
    assert len(files) == 3
    # A file under another's name is noticed
    other = next(f for f in files if f != kept)
    kept.write_bytes(other.read_bytes())
    assert torch.equal(spaces(data, which="learned")["learned"](x), wanted)
    assert "belongs to other data; the learned features are made again" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("in the way")
    space = spaces(some_digits(60), which="learned", cache=tmp_path / "file")["learned"]
    assert space.dim == 64
    assert "The learned features could not be kept for next time." in capsys.readouterr().err


def test_spaces_travel_to_another_process(tmp_path: Path, learned: FeatureSpace, digits: Data):
    made = {"learned": learned, **spaces(digits, which=["random-conv", "pca", "raw"])}
    write_spaces(tmp_path / "spaces.safetensors", made)
    found = read_spaces(tmp_path / "spaces.safetensors")
    x = digits.test.tensor()
    assert list(found) == list(made)
    for key, space in made.items():
        assert torch.equal(found[key](x), space(x))
        assert (found[key].name, found[key].dim, found[key].details) == (space.name, space.dim, space.details)
    assert torch.equal(found["learned"].classify(x), learned.classify(x))
    assert found["learned"].classes == learned.classes
    blob = (tmp_path / "spaces.safetensors").read_bytes()
    (tmp_path / "spaces.safetensors").write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(RunError, match="does not match its checksum"):
        read_spaces(tmp_path / "spaces.safetensors")


# -- Inception ------------------------------------------------------------------------------------------------------


def seeded_weights() -> dict[str, Tensor]:
    """Weights of every tensor of the network, in the order of their names, from one generator."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for name, t in sorted(InceptionV3().state_dict().items()):
        if name.endswith("conv.weight"):
            found[name] = torch.randn(t.shape, generator=g) * (2 / t[0].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            found[name] = torch.rand(t.shape, generator=g) + 0.5
        elif not name.endswith("num_batches_tracked"):
            found[name] = torch.randn(t.shape, generator=g) * 0.1
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    # The published file has a last layer, too, which these features do not need.
    save_file({**seeded_weights(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def test_inception_features_are_torch_fidelitys(weights: Path):
    """torch-fidelity 0.4.0, `FeatureExtractorInceptionV3(["2048"])` with these weights and images, on a CPU, gave the numbers below.

    All 2 x 2,048 features were equal to the bit there, and so were 160 images' (Fréchet distance 490.45793 by torch-fidelity, 490.45795
    here: its matrix square root). Six decimals were written down, of numbers up to 24; another machine's sums in float32 may differ by
    1e-6 of them.
    """
    space = inception_space(weights, DataSpec("image", (3, 32, 40), (levels(256),)))
    x = torch.randint(0, 256, (2, 3, 32, 40), generator=torch.Generator().manual_seed(1))
    f = space(x.float())
    some = [[1.461448, 0.0, 2.592108, 0.721967, 1.080532, 2.047465], [1.558098, 0.0, 2.715012, 0.751207, 0.796979, 2.157193]]
    assert f[:, [0, 319, 320, 1500, 1856, 2047]].numpy() == pytest.approx(np.array(some), abs=1e-4)
    assert f.sum(1).tolist() == pytest.approx([3335.2615, 3395.2547], rel=1e-5)
    assert f.std(1).tolist() == pytest.approx([2.2972, 2.3379], abs=1e-4)
    assert space.name == "Inception v3 (2,048 features of pool3)"


def test_resize_reads_where_tensorflow_does():
    # On a ramp, bilinear interpolation at i * old / 299 gives just that, up to the last pixel, which is repeated.
    ramp = torch.arange(40.0).expand(1, 1, 32, 40)
    where = (torch.arange(299) * 40 / 299).clamp_max(39)
    assert torch.allclose(resize_like_tensorflow(ramp)[0, 0], where.expand(299, 299), atol=1e-5)
    upright = resize_like_tensorflow(ramp.transpose(2, 3))[0, 0, :, 0]
    assert torch.allclose(upright, where, atol=1e-5)


@pytest.mark.parametrize(("support", "white"), [(levels(256), 255.0), (levels(17), 16.0), (BINARY, 1.0), (UNIT, 1.0)])
def test_inception_sees_what_an_image_file_would_hold(support, white: float):
    spec = DataSpec("image", (1, 2, 2), (support,))
    x = torch.tensor([0.0, white, white, 0.0]).reshape(1, 1, 2, 2)
    seen = _rgb(x, spec)
    assert seen.shape == (1, 3, 2, 2)
    assert seen[0].flatten(1).tolist() == [[0.0, 255.0, 255.0, 0.0]] * 3
    half = _rgb(torch.full((1, 1, 2, 2), white / 2), spec)
    assert float(half.max()) in (127.0, 128.0)


def test_inception_files_that_do_not_fit_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    spec = DataSpec("image", (3, 8, 8), (levels(256),))
    with pytest.raises(DataError, match=r"is a pickle, which can execute code and is never opened here. Convert it once") as refused:
        inception_space(tmp_path / "weights.pth", spec)
    assert "torch.load(" in str(refused.value)
    assert "weights_only=True" in str(refused.value)
    assert "weights.safetensors" in str(refused.value)
    with pytest.raises(DataError, match="There is no file"):
        inception_space(tmp_path / "absent.safetensors", spec)
    (tmp_path / "broken.safetensors").write_bytes(b"no such thing")
    with pytest.raises(DataError, match="is no safetensors file, or damaged"):
        inception_space(tmp_path / "broken.safetensors", spec)
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        DataError, match=r"holds other weights: \d+ of \d+ tensors are missing or have another shape, such as 'Conv2d_1a_3x3"
    ):
        inception_space(tmp_path / "other.safetensors", spec)
    for wrong in (DataSpec("image", (2, 8, 8), (UNIT,)), DataSpec("image", (3, 8, 8), (REAL,)), DataSpec("points", (3,))):
        with pytest.raises(Unsupported, match="Inception sees images with 1 or 3 channels and values from 0 to white"):
            inception_space(tmp_path / "any.safetensors", wrong)
