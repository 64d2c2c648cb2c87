"""Penn Treebank, words (Mikolov's 10,000): perplexity of the whole test text in one pass, exact.

The three files are one data set, `load_data(train, validation=..., test=..., tokens="words")`; the end of a line is one of the words, as
<eos> is where others count it: 82,430 of them in the test text. The perplexity is exp of the mean of -log p(w_t | all before): a recurrent
network's state is carried from the first word to the last, a transformer has at least T / 2 words before each. The first word is given
nothing. Nothing is fitted to the test text, neither weights (dynamic evaluation) nor a cache.

Published: LSTM of 2 x 650, dropout 0.5, 82.7 (Zaremba et al. 2014, table 1, medium); variational dropout 79.7 (Gal & Ghahramani 2016);
with tied weights 77.7 and less (Press & Wolf 2017); LSTM 78.9, TCN 88.7 (Bai et al. 2018, table 1).

Settings are chosen by the validation text (`--on validation`), never by the test text. Needs ptb.{train,valid,test}.txt.gz under
PUSHFORWARD_DATA/text, which are not ours to pass on.

    python experiments/ptb_words.py --minutes 60
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from _result import Result

import pushforward as pf
from pushforward.data import read_records


def perplexity(model: Any, path: Path) -> tuple[float, float, int]:
    """exp of the mean of -log p, its standard error by blocks of 500 words, and how many words that is."""
    nats = -model.running(read_records(path)[0]).double()
    blocks = nats[: len(nats) // 500 * 500].view(-1, 500).mean(1)
    value = math.exp(float(nats.mean()))
    return value, value * float(blocks.std()) / math.sqrt(len(blocks)), len(nats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="ptb_words", help="of the file under results/")
    parser.add_argument("--model", choices=["recurrent", "transformer"], default="recurrent")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=None, help="instead of minutes")
    parser.add_argument("--width", type=int, default=650, help="units of a layer, or width of a transformer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cell", choices=["lstm", "gru"], default="lstm")
    parser.add_argument("--untied", action="store_true", help="other weights for words that enter than for those that leave")
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--length", type=int, default=70)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-6)
    parser.add_argument("--schedule", choices=["constant", "linear", "cosine"], default="cosine")
    parser.add_argument("--ema", type=float, default=None)
    parser.add_argument("--precision", choices=["32", "bf16"], default="bf16")
    parser.add_argument("--validate-every", type=int, default=400)
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    parser.add_argument("--target", type=float, default=100.0, help="perplexity of the test text")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    files = {part: Path(os.environ["PUSHFORWARD_DATA"]) / "text" / f"ptb.{part}.txt.gz" for part in ("train", "valid", "test")}
    data = pf.load_data(files["train"], tokens="words", length=given.length, validation=files["valid"], test=files["test"])
    config: dict[str, Any] = {"layers": given.layers, "dropout": given.dropout}
    if given.model == "recurrent":
        config |= {"hidden": given.width, "cell": given.cell, "tied": not given.untied}
    else:
        config |= {"width": given.width, "heads": given.heads}
    training: dict[str, Any] = {"lr": given.lr, "batch_size": given.batch_size, "seed": given.seed, "accelerator": given.accelerator}
    training |= {"optimizer": "adamw", "weight_decay": given.weight_decay, "schedule": given.schedule, "ema": given.ema}
    training |= {"precision": given.precision, "validate_every": given.validate_every, "progress": False, "alarms": False}
    training |= {"steps": given.steps} if given.steps else {"minutes": given.minutes}
    settings = {"model": given.model, **config, **training, "length": given.length, "on": given.on, "threads": given.threads}
    settings |= {"vocabulary": data.spec.supports[0].size, "counted": "every word and every end of line, given all before"}

    class Pace:
        """How far training has come, on the terminal, and how many steps it took."""

        def __getattr__(self, name: str) -> Any:
            return lambda *a: None

        def on_log(self, loop: Any, row: Any) -> None:
            self.steps, self.seconds = loop.step, loop.seconds
            if "validation/per_token" in row:
                print(f"step {loop.step}, {loop.seconds:.0f} s: {math.exp(row['validation/per_token']):.1f} by windows", flush=True)

    name = given.name if given.on == "test" else f"{given.name}_validation"
    with Result(name, settings=settings, seeds=[given.seed]) as result:
        pace = Pace()
        model: Any = (pf.Recurrent if given.model == "recurrent" else pf.Transformer)(**config)
        model.fit(data, observers=[pace], **training).cpu()
        for part in dict.fromkeys(["valid", "test" if given.on == "test" else "valid"]):
            value, se, count = perplexity(model, files[part])
            target = f"<= {given.target:g}" if part == "test" and given.target else None
            what = "test" if part == "test" else "validation"
            result.add(f"{what} text", value, stderr=se, unit="perplexity per word", kind="exact", target=target)
            result.add(f"{what} text, words and ends of lines", count, kind="exact")
        result.add("weights", sum(p.numel() for p in model.parameters()), kind="exact")
        tokens = pace.steps * given.batch_size * given.length
        result.add("passes over the training words", tokens / 929_589, kind="exact")
        result.add("training step", pace.seconds / pace.steps, unit="s", kind="measured")
