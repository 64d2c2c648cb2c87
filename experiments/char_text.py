"""Tiny Shakespeare, characters: held-out nats per character, exact, of a transformer or a recurrent network.

nanoGPT reports 1.88 after 2,000 steps of its recipe for a laptop (4 layers of 128, context 64, batch 12) and 1.4697 for 10.7 million
weights on a GPU (its README). Split as there: the first 90 % to train on, the rest held out. nanoGPT's figure is a mean over windows of its
block size, each character predicted from at least one before: that is our first figure, over all windows of the held-out text, which share
nothing, where nanoGPT takes 200 batches of windows at random. The weights are those that were best on the held-out text, as nanoGPT's are.
A record here also has a first character, predicted from none, which costs more: the mean with it is given too, and that of the whole
held-out text in one pass, whose characters have T / 2 or more before them.

`--beside` trains nanoGPT's module with nanoGPT's loop (both written out below) for as many steps in the same run, in an order that is
drawn, and compares the seconds of the two trainings, each with its own evaluations: nanoGPT's recipe looks at 20 batches of either part
every 250 steps (276,000 characters in 2,000 steps), ours at the whole held-out text every 1,000 (223,000). Needs tinyshakespeare.txt.gz
under PUSHFORWARD_DATA/text.

    python experiments/char_text.py --steps 2000 --beside                                     # the laptop recipe, 3 minutes
    python experiments/char_text.py --name char_text_60 --target 1.6 --minutes 60 --precision bf16 \
        --width 256 --layers 6 --length 256 --batch-size 16 --dropout 0.1 --validate-every 250
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _result import Result
from torch import nn

import pushforward as pf
from pushforward.data import read_records


class Block(nn.Module):
    """nanoGPT's block without biases, as its recipe for characters has it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        B, T, w = x.shape
        q, k, v = (y.view(B, T, self.heads, w // self.heads).transpose(1, 2) for y in self.qkv(self.ln1(x)).split(w, 2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).contiguous().view(B, T, w))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class NanoGPT(nn.Module):
    def __init__(self, symbols: int, length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln = nn.LayerNorm(width, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if name.endswith(("proj.weight", "down.weight")) else 0.02)

    def forward(self, idx):
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln(x) @ self.wte.weight.T


def nanogpt(train: torch.Tensor, held: torch.Tensor, given: argparse.Namespace, symbols: int) -> tuple[float, float]:
    """(seconds of training, held-out nats of a character with at least one before) of nanoGPT's loop."""
    torch.manual_seed(given.seed)
    model = NanoGPT(symbols, given.length, given.width, given.layers, given.heads)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def batch(text: torch.Tensor) -> torch.Tensor:
        """-log p of a batch of windows."""
        at = torch.randint(len(text) - given.length - 1, (given.batch_size,))
        x = torch.stack([text[i : i + given.length + 1] for i in at])
        return F.cross_entropy(model(x[:, :-1]).view(-1, symbols), x[:, 1:].reshape(-1))

    def look() -> list[float]:
        with torch.no_grad():
            return [float(torch.stack([batch(part) for _ in range(20)]).mean()) for part in (train, held)]

    started = time.perf_counter()
    for step in range(given.steps):
        if step % 250 == 0:
            look()
        warm = step / 100 if step < 100 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 100) / (given.steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * warm
        batch(train).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    look()
    seconds = time.perf_counter() - started
    n = len(held) // given.length - 1
    x = torch.stack([held[i * given.length : (i + 1) * given.length + 1] for i in range(n)])
    with torch.no_grad():
        losses = [F.cross_entropy(model(b[:, :-1]).view(-1, symbols), b[:, 1:].reshape(-1)) * len(b) for b in x.split(256)]
    return seconds, float(sum(losses)) / n


def ratio(log_p: torch.Tensor) -> tuple[float, float]:
    """Mean of -log p over what there is, and its standard error by windows."""
    per_window = -log_p.double().nanmean(1)
    return float(per_window.mean()), float(per_window.std() / math.sqrt(len(per_window)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="char_text", help="of the file under results/")
    parser.add_argument("--model", choices=["transformer", "recurrent"], default="transformer")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--steps", type=int, default=2000, help="where no minutes are given")
    parser.add_argument("--width", type=int, default=128, help="of a transformer; hidden units of a recurrent network")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", choices=["rotary", "learned"], default="rotary")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--beside", action="store_true", help="nanoGPT's loop in the same run")
    parser.add_argument("--target", type=float, default=None, help="nats per character that must be reached")
    parser.add_argument("--validate-every", type=int, default=1000)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", default=None, help="a folder for samples.txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    path = Path(os.environ["PUSHFORWARD_DATA"]) / "text" / "tinyshakespeare.txt.gz"
    data = pf.load_data(path, length=given.length, validation=0.1, test=0)
    training: dict[str, Any] = {"lr": given.lr, "batch_size": given.batch_size, "seed": given.seed, "accelerator": given.accelerator}
    training |= {"weight_decay": given.weight_decay, "validate_every": given.validate_every, "progress": False}
    training |= {"precision": given.precision}
    training |= {"minutes": given.minutes} if given.minutes else {"steps": given.steps}
    config: dict[str, Any] = {"layers": given.layers, "dropout": given.dropout}
    if given.model == "transformer":
        config |= {"width": given.width, "heads": given.heads, "positions": given.positions}
    else:
        config |= {"hidden": given.width}
    model: Any = pf.Transformer(**config) if given.model == "transformer" else pf.Recurrent(**config)
    text = "".join(data.schema.symbols)
    settings = {"model": given.model, **config, **training, "length": given.length, "threads": given.threads, "characters": len(text)}
    with Result(given.name, settings=settings, seeds=[given.seed]) as result:
        other: tuple[float, float] | None = None

        def beside() -> tuple[float, float]:
            whole = data.schema.ids(read_records(path)[0])
            n = len(whole) - round(0.1 * len(whole))
            return nanogpt(whole[:n], whole[n:], given, len(text))

        first = given.beside and bool(torch.rand((), generator=torch.Generator().manual_seed(given.seed)) < 0.5)
        if first:
            other = beside()
        started = time.perf_counter()
        model.fit(data, **training)
        seconds = time.perf_counter() - started
        if given.beside and not first:
            other = beside()
        model.cpu()
        log_p = model.per_token(data.validation)
        target = f"<= {given.target:g}" if given.target else None
        value, se = ratio(log_p[:, 1:])
        result.add(
            "held-out, each character given at least one before", value, stderr=se, unit="nats per character", kind="exact", target=target
        )
        value, se = ratio(log_p)
        result.add("held-out, all characters of a window", value, stderr=se, unit="nats per character", kind="exact")
        held = read_records(path)[0]
        log_p = model.running(held[len(held) - round(0.1 * len(held)) :])
        value, se = ratio(log_p[: len(log_p) // 500 * 500].view(-1, 500))
        result.add("held-out text in one pass, T / 2 or more before each", value, stderr=se, unit="nats per character", kind="exact")
        result.add("weights", sum(p.numel() for p in model.parameters()), kind="exact")
        result.add("training, with set-up and validation", seconds, unit="s", kind="measured")
        if other is not None:
            result.add("nanoGPT's loop, each character given at least one before", other[1], unit="nats per character", kind="exact")
            result.add("nanoGPT's loop, with its evaluations", other[0], unit="s", kind="measured")
            result.add("our training over nanoGPT's", seconds / other[0], kind="measured", target="<= 1")
    written = model.extend("\n", 600, temperature=0.8, seed=given.seed)
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
        (Path(given.out) / "samples.txt").write_text(written, encoding="utf-8")
    print(written)
