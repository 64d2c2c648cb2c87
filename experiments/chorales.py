"""JSB chorales in quarter notes (229 to train on, 76, 77), 88 keys: held-out nats per frame, exact, given the lengths of the pieces.

Published: RNN-RBM 6.27 and RNN-NADE 5.56 (Boulanger-Lewandowski et al. 2012, table 1); with keys that are independent within a frame,
which is another class of models, LSTM 8.45 and TCN 8.10 (Bai et al. 2018, table 1). The keys of a frame are taken from low to high by NADE
unless `--head independent` says otherwise. `--transpose` moves training pieces by up to so many semitones at random and is said in the
settings.
Weights are those that were best on the validation pieces; settings are chosen there too (`--on validation`), never on the test pieces.
Needs jsb-chorales-quarter.json.gz under PUSHFORWARD_DATA/music.

    python experiments/chorales.py --minutes 20 --threads 1 --transpose 3
    python experiments/chorales.py --name chorales_independent --head independent --minutes 20
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from _result import Result

import pushforward as pf


def per_frame(log_p: torch.Tensor) -> tuple[float, float]:
    """Nats over frames of all pieces together, and the standard error of that ratio by pieces."""
    nats, count = -log_p.double().nansum(1), (~log_p.isnan()).sum(1).double()
    value, n = float(nats.sum() / count.sum()), len(nats)
    return value, float((nats - value * count).square().sum().sqrt() / count.sum() * (n / (n - 1)) ** 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="chorales", help="of the file under results/")
    parser.add_argument("--model", choices=["recurrent", "transformer"], default="recurrent")
    parser.add_argument("--head", choices=["nade", "independent"], default="nade")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--hidden", type=int, default=200, help="units of a layer, or width of a transformer")
    parser.add_argument("--nade-hidden", type=int, default=150)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--cell", choices=["lstm", "gru"], default="lstm")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--transpose", type=int, default=0)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--ema", type=float, default=None)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    parser.add_argument("--target", type=float, default=6.3, help="nats per frame, for NADE on the test pieces")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", default=None, help="a folder for drawn pieces: a picture and JSON (and MIDI where mido is there)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data(Path(os.environ["PUSHFORWARD_DATA"]) / "music" / "jsb-chorales-quarter.json.gz")
    config: dict[str, Any] = {"head": given.head, "layers": given.layers, "dropout": given.dropout, "transpose": given.transpose}
    config |= {"nade_hidden": given.nade_hidden}
    config |= {"hidden": given.hidden, "cell": given.cell} if given.model == "recurrent" else {"width": given.hidden}
    training: dict[str, Any] = {"minutes": given.minutes, "lr": given.lr, "batch_size": given.batch_size, "seed": given.seed}
    training |= {"ema": given.ema, "weight_decay": given.weight_decay, "validate_every": 14, "accelerator": given.accelerator}
    training |= {"progress": False, "optimizer": "adamw"}
    settings = {"model": given.model, **config, **training, "on": given.on, "threads": given.threads}
    name = given.name if given.on == "test" else f"{given.name}_validation"
    with Result(name, settings=settings, seeds=[given.seed]) as result:
        model: Any = (pf.Recurrent(**config) if given.model == "recurrent" else pf.Transformer(**config)).fit(data, **training).cpu()
        for part in dict.fromkeys(["validation", given.on]):
            held = getattr(data, part)
            log_p = model.per_token(held)
            value, se = per_frame(log_p)
            target = f"<= {given.target:g}" if part == "test" and given.head == "nade" else None
            result.add(f"{part} pieces", value, stderr=se, unit="nats per frame", kind="exact", target=target)
            whole = -float(model.log_prob(held).double().mean())
            result.add(f"{part} pieces with their lengths", whole, unit="nats per piece", kind="exact")
        train = data.train[torch.arange(76)]
        result.add("76 training pieces", per_frame(model.per_token(train))[0], unit="nats per frame", kind="exact")
        result.add("weights", sum(p.numel() for p in model.parameters()), kind="exact")
        if given.out:
            from pushforward.data import write_records
            from pushforward.plots import draw_samples

            folder = Path(given.out)
            folder.mkdir(parents=True, exist_ok=True)
            pieces = model.sample(8, seed=given.seed)
            (folder / "pieces.json").write_text(json.dumps(pieces), encoding="utf-8")
            draw_samples(data.schema.encode(pieces), data.schema, data.spec, folder / "pieces.png")
            try:
                write_records(pieces, folder / "pieces", overwrite=True)
            except pf.DataError as error:
                print(error)
