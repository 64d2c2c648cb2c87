"""Scores of novelty against Gaussians, where all of them are known, against independent code lengths, and their errors."""

import math
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.data import Data, Records
from pushforward.data.spec import BINARY, DataSpec, levels
from pushforward.errors import ConfigError, DataError, NotFitted, Unsupported
from pushforward.novelty import METHODS, code_lengths, known_answers, novelty
from pushforward.novelty.answers import gaussian, shell_auroc


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("answer", [*known_answers()], ids=lambda k: k.name)
def test_known_answers(answer):
    assert answer.holds, f"{answer.name}: {answer.ours} instead of {answer.known} ± {answer.tolerance} ({answer.because})"


def test_scores_are_their_formulas():
    model, other = gaussian(torch.ones(3).double()), gaussian(torch.full((3,), 2.0).double())
    x, reference = randn(5, 3), randn(40, 3, seed=1)
    minus = 0.5 * x.square().sum(1) + 1.5 * math.log(2 * math.pi)
    assert torch.allclose(novelty(model, x, method="likelihood").scores, minus)
    assert torch.allclose(novelty(model, x, method="likelihood").log_prob, -minus)
    found = novelty(model, x, reference=reference)  # half of the reference gives H
    H = float((0.5 * reference[:20].square().sum(1) + 1.5 * math.log(2 * math.pi)).mean())
    assert found.entropy is not None
    assert found.entropy.value == pytest.approx(H, abs=1e-12)
    assert torch.allclose(found.scores, (minus - H).abs())
    assert found.held_out is not None
    assert len(found.held_out) == 20, "the other half ranks"
    ratio = novelty(model, x, method="likelihood_ratio", background=other).scores
    assert torch.allclose(ratio, 0.5 * x.square().sum(1) * (1 - 1 / 4) - 3 * math.log(2.0))


def test_a_batch_takes_the_mean_before_the_distance():
    model, x = gaussian(torch.ones(3).double()), randn(7, 3)
    found = novelty(model, x, batch=3, reference=randn(80, 3, seed=1))
    assert found.entropy is not None
    means = (-found.log_prob[:6]).view(2, 3).mean(1)
    assert torch.allclose(found.scores, (means - found.entropy.value).abs())
    assert found.notes[0].startswith("1 records at the end form no whole batch of 3")
    assert found.held_out is not None
    assert len(found.held_out) == 40 // 3
    columns = found.columns()
    assert columns["batch"] == [0, 0, 0, 1, 1, 1]
    assert columns["score"][:3] == [float(found.scores[0])] * 3


def test_p_values_of_records_like_the_data_are_uniform_and_the_likelihoods_failure_is_said():
    model = gaussian(torch.ones(30).double())
    same = novelty(model, randn(2000, 30), reference=randn(4000, 30, seed=1))
    assert same.flagged is not None
    # 5 % of 2000 records against 2000 held-out ones: the share's variance is .05 * .95 (1/2000 + 1/2000), 4 sd are 2.8 points
    assert abs(same.flagged.value - 0.05) < 0.028
    assert "5 % are expected" in str(same)
    narrow = novelty(model, 0.8 * randn(500, 30), method="likelihood", reference=randn(1000, 30, seed=1))
    assert narrow.auroc is not None
    assert narrow.auroc.high < 0.5
    assert any("more likely under the model than held-out records" in note for note in narrow.notes)
    assert shell_auroc(30, 0.8) < 0.12
    few = novelty(model, randn(5, 30), reference=randn(20, 30, seed=1))
    assert any("10 held-out records give p-values no smaller than 0.091" in note for note in few.notes)


def test_the_mode_is_the_least_novel_record_by_likelihood_and_among_the_most_novel_by_typicality():
    model, zero = gaussian(torch.ones(200).double()), torch.zeros(1, 200, dtype=torch.float64)
    reference = randn(400, 200, seed=1)
    by = {m: novelty(model, zero, method=m, reference=reference).p_values for m in ("likelihood", "typicality")}
    assert by["likelihood"] is not None
    assert by["typicality"] is not None
    assert float(by["likelihood"]) == 1.0
    assert float(by["typicality"]) == pytest.approx(1 / 201), "sqrt(200) from every record: the least p-value there is"


# -- code lengths -----------------------------------------------------------------------------------------------------------


def idat(image: np.ndarray, mode: str) -> int:
    """Bytes of the compressed pixels of a PNG file, read chunk by chunk."""
    from PIL import Image

    file, total = BytesIO(), 0
    Image.fromarray(image).convert(mode).save(file, "png", optimize=True)
    raw, at = file.getvalue(), 8
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        total += length if raw[at + 4 : at + 8] == b"IDAT" else 0
        at += 12 + length
    return total


def test_code_lengths_are_those_of_the_files_content():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, size=(1, 16, 16))
    flat = np.full((1, 16, 16), 7)
    x = torch.tensor(np.stack([noise, flat])).double()
    found = code_lengths(x, DataSpec("image", (1, 16, 16), (levels(256),)))
    assert found.tolist() == [8 * idat(noise[0].astype("uint8"), "L"), 8 * idat(flat[0].astype("uint8"), "L")]
    # uniform noise cannot be coded in less than its 8 bits an entry, up to a chance of 2^-64 for 64 bits fewer; flat pixels can
    assert found[0] > 16 * 16 * 8 - 64
    assert found[1] < 16 * 8 * 8
    bits = rng.integers(0, 2, size=(1, 1, 16, 16))
    found = code_lengths(torch.tensor(bits).double(), DataSpec("image", (1, 16, 16), (BINARY,)))
    assert found.tolist() == [8 * idat(bits[0, 0].astype("uint8") * 255, "1")]
    row = rng.integers(0, 5, size=(1, 40))
    found = code_lengths(torch.tensor(row).double(), DataSpec("table", (40,), (levels(5),) * 40))
    assert found.tolist() == [8 * len(zlib.compress(bytes(row[0].tolist()), 9))]
    row = rng.integers(0, 500, size=(1, 40))
    found = code_lengths(torch.tensor(row).double(), DataSpec("table", (40,), (levels(500),) * 40))
    assert found.tolist() == [8 * len(zlib.compress(row.astype("<u2").tobytes(), 9))]


def test_complexity_is_bits_of_the_model_less_bits_of_the_code():
    images = np.random.default_rng(0).integers(0, 2, size=(40, 8, 8)).astype("uint8") * 255
    data = pf.load_data(images)
    model = pf.MADE(hidden=(8,)).fit(data, steps=2, batch_size=16, progress=False)
    found = novelty(model, images[:6], method="complexity", reference=data)
    lengths = code_lengths(data.schema.encode(images[:6]), data.spec)
    assert torch.allclose(found.scores, -model.log_prob(images[:6]).double() / math.log(2) - lengths)
    assert found.unit == "bits"
    assert found.p_values is not None
    assert len(found.p_values) == 6


# -- perturbed records --------------------------------------------------------------------------------------------------------


def test_perturbed_replaces_the_share_of_entries_that_it_says():
    images = np.full((400, 8, 8), 3, dtype="uint8")
    images[0, 0, 0] = 15
    data = pf.load_data(images, support="levels(16)")
    new = pf.perturbed(data, 0.2, seed=1)
    x = new.train.tensor()
    n = x.numel()
    # an entry is replaced in 20 % of cases and keeps its value in 1/16 of those: 4 sd of the share
    share, p = float((x != data.train.tensor()).double().mean()), 0.2 * 15 / 16
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)
    counts = torch.bincount(x.flatten().long(), minlength=16).double() / n
    others = counts[[i for i in range(16) if i != 3]]
    assert float((others - 0.2 / 16).abs().max()) < 5 * math.sqrt(0.0125 / n), "drawn uniformly from the values"
    assert torch.equal(new.test.tensor(), data.test.tensor()), "test records stay"
    assert torch.equal(pf.perturbed(data, 0.2, seed=1).train.tensor(), x)
    assert not torch.equal(pf.perturbed(data, 0.2, seed=2).train.tensor(), x)
    assert any("0.2 of the entries" in note for note in new.notes)
    with pytest.raises(ConfigError, match=r"rate must lie in \(0, 1\], got 0"):
        pf.perturbed(data, 0)


def test_perturbed_reals_keep_the_mean_and_variance_of_their_column():
    data = pf.load_data(np.random.default_rng(0).normal(3, 2, size=(5000, 2)) @ np.array([[1.0, 1.0], [0.0, 0.1]]))
    # as another schema might have it: columns that are not standardised
    train = Records(data.schema, 2 * data.train.x + 5)
    x = (pf.perturbed(Data(data.schema, train, data.validation, data.test), 1.0).train.tensor().double() - 5) / 2
    n = len(x)
    assert float(x.mean(0).abs().max()) < 4 / math.sqrt(n) + 0.01
    assert float((x.var(0) - 1).abs().max()) < 4 * math.sqrt(2 / n) + 0.01
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 4 / math.sqrt(n), "what columns have in common is lost"


# -- errors -------------------------------------------------------------------------------------------------------------------


def test_errors_say_the_remedy():
    model, x = gaussian(torch.ones(3).double()), randn(5, 3)
    with pytest.raises(ConfigError, match=r"no method 'typical'\. Did you mean 'typicality'"):
        novelty(model, x, method="typical")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="typicality needs reference=, the data that the model was fitted to"):
        novelty(model, x)
    with pytest.raises(ConfigError, match=r"likelihood_ratio needs background=.*pushforward\.perturbed\(data\)"):
        novelty(model, x, method="likelihood_ratio")
    with pytest.raises(ConfigError, match="must have a likelihood of the same records: it models points 4, real"):
        novelty(model, x, method="likelihood_ratio", background=gaussian(torch.ones(4).double()))
    with pytest.raises(ConfigError, match="typicality takes no background model"):
        novelty(model, x, background=model)
    with pytest.raises(DataError, match=r"Records have shape \(4,\); this model was fitted to \(3,\)"):
        novelty(model, randn(5, 4), method="likelihood")
    with pytest.raises(DataError, match="5 records are too few for a batch of 6"):
        novelty(model, x, method="likelihood", batch=6)
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        novelty(model, x, method="likelihood", batch=0)
    with pytest.raises(Unsupported, match=r"length of a lossless code, which points 3, real has not.*Use typicality"):
        novelty(model, x, method="complexity")
    with pytest.raises(ConfigError, match="has no option 'sample'"):
        novelty(model, x, method="likelihood", sample=3)
    with pytest.raises(NotFitted):
        novelty(pf.RealNVP(), x)
    gan = pf.GAN().build(DataSpec("points", (3,)))
    with pytest.raises(Unsupported, match=r"GAN has no likelihood to score with: .* Fit a model that has one, such as realnvp"):
        novelty(gan, x)


def test_json_has_what_a_score_can_and_cannot_tell():
    model = gaussian(torch.ones(3).double())
    state = novelty(model, randn(5, 3), method="likelihood", reference=randn(30, 3, seed=1)).to_json()
    assert (state["unit"], state["kind"], state["held_out"]) == ("nats", "exact", 30)
    assert len(state["scores"]) == len(state["p_values"]) == 5
    assert "simpler than the training data" in state["misses"]
    assert set(METHODS) == {"likelihood", "typicality", "likelihood_ratio", "complexity"}


def test_conditional_models_score_records_given_their_labels():
    x = randn(200, 2).numpy()
    labels = (x[:, 0] > 0).astype(int)
    data = pf.load_data(x, label=labels)
    model = pf.RealNVP(layers=1, hidden=(4,)).fit(data, condition=True, steps=2, progress=False)
    found = novelty(model, x[:4], condition=labels[:4], reference=data)
    assert torch.allclose(found.log_prob, model.log_prob(x[:4], condition=labels[:4]).double())
    assert found.p_values is not None
