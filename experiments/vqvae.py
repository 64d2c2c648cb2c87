"""A VQ-VAE on images and a PixelCNN over its codes: use of the codebook, reconstructions, the bound with the learned prior, samples.

The bound log p(x) >= log p(x | k(x)) + log P(k(x)) is given in bits per pixel, with the uniform prior of training and with the learned
one: what the prior learned is their difference. `--out` gets two pictures: records over their reconstructions, and samples, both as the
mean of p(x | codes); its most probable image is harder than any record.

    python experiments/vqvae.py --minutes 20 --out pictures
"""

import argparse
import math
from pathlib import Path

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import standard_error
from pushforward.models.exact.autoregressive import PixelCNN
from pushforward.models.latent.latent_prior import LatentPrior
from pushforward.models.latent.vqvae import VQVAE
from pushforward.plots import draw_samples
from pushforward.rng import Rng

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, default=20.0, help="for both stages together, half each")
    parser.add_argument("--codebook", type=int, default=128)
    parser.add_argument("--code-dim", type=int, default=16)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--records", type=int, default=10_000, help="test records that are evaluated")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="of training; bounds are computed in single precision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None, help="folder for the pictures and the run")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data(given.data)
    config = {"codebook_size": given.codebook, "code_dim": given.code_dim, "channels": given.channels}
    training = {"minutes": given.minutes, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "seed": given.seed}
    training["precision"] = given.precision
    name = "vqvae" if given.data == "mnist" else f"vqvae_{given.data}"
    with Result(name, settings={"data": given.data, **config, **training, "threads": given.threads}, seeds=[given.seed]) as result:
        out = None if given.out is None else Path(given.out)
        model = LatentPrior(autoencoder=VQVAE(**config), prior=PixelCNN(layers=5, channels=64))
        model.fit(data, out=None if out is None else out / "run", **training)
        vqvae, _ = model.stages
        test = data.test[: given.records]

        codes = vqvae.encode(test)
        share = torch.bincount(codes.flatten().long(), minlength=given.codebook).double() / codes.numel()
        perplexity = math.exp(float(torch.special.entr(share).sum()))
        result.add("perplexity of the codes of test records", perplexity, kind="measured", target=f">= {given.codebook / 2:g}")
        result.add("entries of the codebook in use", int((share > 0).sum()), kind="measured")
        v = torch.cat([vqvae.likelihood(part).mean for part in codes.split(500)])
        error = ((test.tensor() - v) / 255).square().flatten(1).mean(1).double()
        result.add("squared error of a pixel in [0, 1]", float(error.mean()), stderr=standard_error(error), kind="measured")
        bits = math.log(2) * data.spec.dim
        for what, bound in (("uniform", vqvae.log_prob(test)), ("learned", model.log_prob(test))):
            loss = -bound.double() / bits
            result.add(f"bound, {what} prior", float(loss.mean()), stderr=standard_error(loss), unit="bits/dim", kind="bound")
        code_bits = -model._log_prior(Rng.seeded(0))(codes[:2000], None).detach().double() / math.log(2)
        result.add("bits of a record's codes, learned prior", float(code_bits.mean()), stderr=standard_error(code_bits), unit="bits")
        result.add("bits of a record's codes, uniform prior", codes.shape[1] * math.log2(given.codebook), unit="bits", kind="exact")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            x = data.test.tensor()[:32]
            rows = [t for a, b in zip(x.split(8), v[:32].split(8), strict=True) for t in (a, b)]
            draw_samples(torch.cat(rows), data.schema, data.spec, out / "reconstructions.png")
            drawn = model._draw_prior(64, None, Rng.seeded(0)).detach()
            draw_samples(vqvae.likelihood(drawn).mean, data.schema, data.spec, out / "samples.png")
