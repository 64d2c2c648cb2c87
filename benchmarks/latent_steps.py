"""A training step of each family of the latent wing through `fit`, beside bare loops, and beside pythae on the same models.

Two kinds of bare loop: the networks and the loss written out by hand (autoencoder, VAE, adversarial autoencoder), and for the larger
models their own objectives in a loop without an engine: batches by index, fused Adam, nothing logged. Contenders are processes that
take steps in turn. Targets: at most 1.05x of the bare loop, and at least 1.25x faster than pythae on the same layers, loss, batch and
data.

    pip install --no-deps --target PEERS pythae cloudpickle imageio tqdm pydantic pydantic-core annotated-types typing-inspection
    python benchmarks/latent_steps.py --peers PEERS [--only vae]
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _timing import AfterStep, Result, ratio, turns
from torch import Tensor, nn

import pushforward as pf
from pushforward import models
from pushforward.model import Batch, GradientModel
from pushforward.rng import Rng

BATCH = 128
HIDDEN, CODE = 400, 20
STEPS = {"vqvae": 2, "hvae": 2}
"""Rounds of a turn, where they are not the 50 after which `fit` writes a line of its history."""

After = Callable[[], None]
"""What a contender calls after each round."""

MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "autoencoder": (10_000, {"hidden": (HIDDEN,), "latent_dim": CODE, "network": "mlp", "loss": "squared"}),
    "vae": (10_000, {"hidden": (HIDDEN,), "latent_dim": CODE, "network": "mlp"}),
    "aae": (10_000, {"hidden": (HIDDEN,), "latent_dim": CODE, "network": "mlp", "critic_hidden": (HIDDEN,)}),
    "aae, jointly": (
        10_000,
        {"hidden": (HIDDEN,), "latent_dim": CODE, "network": "mlp", "critic_hidden": (HIDDEN,), "adversarial_weight": 1.0},
    ),
    "m2": (2_560, {"hidden": (HIDDEN,), "latent_dim": CODE, "network": "mlp"}),
    "ssaae": (2_560, {"hidden": (HIDDEN,), "network": "mlp"}),
    "categorical_vae": (10_000, {"hidden": (HIDDEN,), "network": "mlp"}),
    "vqvae": (1_280, {}),
    "hvae": (1_280, {}),
}
"""Records (a multiple of the batch after the split is not needed) and hyperparameters of each."""


# -- by hand --------------------------------------------------------------------------------------------------------


def layers(*sizes: int) -> nn.Sequential:
    dense: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        dense += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*dense[:-1])


def adam(*nets: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for net in nets for p in net.parameters()], lr=lr, fused=True)


def batches(x: Tensor, after_step: After) -> Iterator[Tensor]:
    """Without end; what comes after a batch is the end of a step."""
    while True:
        for index in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            yield x[index]
            after_step()


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def by_hand(name: str, x: Tensor, after_step: After) -> None:
    encoder, decoder = layers(784, HIDDEN, 2 * CODE if name == "vae" else CODE), layers(CODE, HIDDEN, 784)
    optimizer = adam(encoder, decoder)
    if name == "autoencoder":
        for u in batches(x, after_step):
            step((decoder(encoder(u)).sigmoid() - u).square().sum(1).mean(), optimizer)
    elif name == "vae":
        for u in batches(x, after_step):
            mu, log_var = encoder(u).chunk(2, 1)
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), u, reduction="none").sum(1)
            step((reconstruction + 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)).mean(), optimizer)
    elif name == "aae, jointly":
        critic = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))
        judge = adam(critic)
        for u in batches(x, after_step):
            critic.requires_grad_(False)
            z = encoder(u)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), u, reduction="none").sum(1)
            step((reconstruction + F.softplus(-critic(z)).squeeze(1)).mean(), optimizer)
            critic.requires_grad_(True)
            step((F.softplus(-critic(torch.randn_like(z))) + F.softplus(critic(z.detach()))).mean(), judge)
    else:
        critic = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))
        judge, generator = adam(critic), adam(encoder)
        players = [(optimizer, (encoder, decoder)), (judge, (critic,)), (generator, (encoder,))]
        # All three look at one batch, and the critic at the codes of the reconstruction.
        for u in batches(x, after_step):
            for i, (own, nets) in enumerate(players):
                for net in (encoder, decoder, critic):
                    net.requires_grad_(net in nets)
                if i == 0:
                    z = encoder(u)
                    loss, codes = F.binary_cross_entropy_with_logits(decoder(z), u, reduction="none").sum(1).mean(), z.detach()
                elif i == 1:
                    loss = (F.softplus(-critic(torch.randn_like(codes))) + F.softplus(critic(codes))).mean()
                else:
                    loss = F.softplus(-critic(encoder(u))).mean()
                step(loss, own)


# -- own objectives without an engine ---------------------------------------------------------------------------------


def without_engine(name: str, settings: dict[str, Any], data: pf.Data, after_step: After) -> None:
    model = models.create(name.partition(",")[0], **settings)
    assert isinstance(model, GradientModel)
    model._adopt(data.schema, conditional=False)
    model.build(data.spec)
    prepare = getattr(model, "_prepare", None)
    if prepare is not None:
        prepare(data, 0)
    model.train()
    objectives = model._objectives()
    players = [o.parameters() for o in objectives]
    optimizers = [torch.optim.Adam(p, lr=1e-3, fused=True) for p in players]
    rng, records = Rng.seeded(0), len(data.train)
    order, at = torch.randperm(records), 0
    batch: Any = None
    for done in itertools.count():
        for objective, own, optimizer in zip(objectives, players, optimizers):
            if len(objectives) > 1:
                for p in (p for player in players for p in player):
                    p.requires_grad_(False)
                for p in own:
                    p.requires_grad_(True)
            for _ in range(objective.steps):
                if objective.fresh:
                    if at + BATCH > records:
                        order, at = torch.randperm(records), 0
                    index = order[at : at + BATCH]
                    at += BATCH
                    batch = Batch(data.train.batch(index, rng)[0], None, index, rng, done)
                step(objective.loss(batch).per_record.mean(), optimizer)
        after_step()


def through_fit(name: str, settings: dict[str, Any], data: pf.Data, after_step: After) -> None:
    model = models.create(name.partition(",")[0], **settings)
    model.fit(
        data,
        steps=10**9,
        batch_size=BATCH,
        schedule="constant",
        lr=1e-3,
        ema=None,
        clip=None,
        progress=False,
        observers=[AfterStep(after_step)],
    )


# -- pythae -----------------------------------------------------------------------------------------------------------


def pythae(name: str, x: Tensor) -> Callable[[After], None] | None:
    """Its trainer on the same layers; None where it has no such model, or is not installed."""
    try:
        from pythae.data.datasets import BaseDataset  # pyright: ignore
        from pythae.models import AE, VAE, Adversarial_AE, Adversarial_AE_Config, AEConfig, VAEConfig  # pyright: ignore
        from pythae.models.base.base_utils import ModelOutput  # pyright: ignore
        from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder  # pyright: ignore
        from pythae.trainers import (  # pyright: ignore
            AdversarialTrainer,
            AdversarialTrainerConfig,
            BaseTrainer,
            BaseTrainerConfig,
        )
        from pythae.trainers.training_callbacks import TrainingCallback  # pyright: ignore
    except ImportError:
        return None
    logging.disable(logging.INFO)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.mu, self.log_var = nn.Linear(784, HIDDEN), nn.Linear(HIDDEN, CODE), nn.Linear(HIDDEN, CODE)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.hidden(x))
            if name == "autoencoder":
                return ModelOutput(embedding=self.mu(h))
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = layers(CODE, HIDDEN, 784)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    class Critic(BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1), nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(embedding=self.net(z))

    records, shape = BaseDataset(x, torch.zeros(len(x))), {"input_dim": (784,), "latent_dim": CODE}

    def work(after_step: After) -> None:
        class Tick(TrainingCallback):
            def on_train_step_end(self, *args: Any, **kwargs: Any) -> None:
                after_step()

        common: dict[str, Any] = {"num_epochs": 10**6, "per_device_train_batch_size": BATCH, "no_cuda": True}
        with tempfile.TemporaryDirectory() as folder:
            if name == "aae, jointly":
                model: Any = Adversarial_AE(Adversarial_AE_Config(**shape, reconstruction_loss="bce"), Encoder(), Decoder(), Critic())
                config: Any = AdversarialTrainerConfig(output_dir=folder, **common)
                trainer: Any = AdversarialTrainer(model, records, training_config=config, callbacks=[Tick()])
            else:
                model = AE(AEConfig(**shape), Encoder(), Decoder())
                if name == "vae":
                    model = VAE(VAEConfig(**shape, reconstruction_loss="bce"), Encoder(), Decoder())
                config = BaseTrainerConfig(output_dir=folder, learning_rate=1e-3, **common)
                trainer = BaseTrainer(model, records, training_config=config, callbacks=[Tick()])
            trainer.save_model = lambda *a, **k: None  # the others save nothing either
            trainer.train()

    return work


# -- the comparison ---------------------------------------------------------------------------------------------------


def contenders(name: str, data: pf.Data, settings: dict[str, Any]) -> dict[str, Callable[[After], None]]:
    x = data.train.tensor().flatten(1)
    found: dict[str, Callable[[After], None]] = {
        "fit": partial(through_fit, name, settings, data),
        "own objectives": partial(without_engine, name, settings, data),
    }
    if name in ("autoencoder", "vae", "aae", "aae, jointly"):
        found["by hand"] = partial(by_hand, name, x)
        # Its adversarial autoencoder takes one step for the reconstruction and the codes, as ours does with a weight.
        peer = None if name == "aae" else pythae(name, x)
        if peer is not None:
            found["pythae"] = peer
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a folder with pythae")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peers:
        sys.path.append(given.peers)
    if given.peers and pythae("vae", torch.zeros(2, 784)) is None:
        raise SystemExit(f"pythae cannot be imported from {given.peers}.")
    with Result("bench_latent_steps", settings={"batch": BATCH, "steps": STEPS, "repeats": given.repeats}) as result:
        for name in given.only:
            rows, settings = MODELS[name]
            random = np.random.default_rng(0)
            images = (random.random((rows, 28, 28)) < 0.3).astype(np.uint8)
            labels = random.integers(0, 10, rows)
            data = pf.load_data(images, support="binary", label=labels)
            works = contenders(name, data, settings)
            cost = turns(works, STEPS.get(name, 50), given.repeats)
            for k, values in cost.items():
                result.add(f"{name}: {k}", 1e3 * statistics.median(values), unit="ms a round", kind="median of turns")
            for k in cost.keys() - {"fit", "pythae"}:
                result.add(f"{name}: fit over {k}", **ratio(cost["fit"], cost[k]), unit="x", kind="median of turns", target="<= 1.05")
            if "pythae" in cost:
                versus = ratio(cost["pythae"], cost["fit"])
                result.add(f"{name}: pythae over fit", **versus, unit="x", kind="median of turns", target=">= 1.25")
