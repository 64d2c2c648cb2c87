"""256 symbols drawn from a GPT-2 of 6 layers of 384 (6 heads, 65 symbols), ours beside `transformers`, batch 1 and 16.

Ours has the very weights of the other, and before timing both must give the same probabilities for the same text: the other's GELU is
set to the exact one, and its biases are zero, where ours has none. Both keep keys and values of the steps before, draw at temperature 1
from all symbols, and start from one symbol (ours: its start vector): 256 passes of one step each. `transformers` is called in two ways:
its `generate`, and a bare loop over its forward pass and cache; the target is for the quicker of the two. Ours goes through the public
`sample`.

    python benchmarks/generation.py --peers PEERS
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from _timing import Result, interleave

from pushforward.data.spec import DataSpec, categories
from pushforward.models.exact.transformer import Transformer

SYMBOLS, WIDTH, LAYERS, HEADS = 65, 384, 6, 6


def gpt2(tokens: int) -> Any:
    """transformers' GPT-2 of this size, with initial weights from a fixed seed, large enough that symbols differ in probability."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_positions": tokens + 1, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": SYMBOLS}
    sizes["activation_function"] = "gelu"
    quiet: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **quiet, **ends)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
    return model


@torch.no_grad()
def ours(other: Any, tokens: int) -> Transformer:
    """Our transformer with the weights of `other`; its start vector is the other's symbol 0."""
    model = Transformer(width=WIDTH, layers=LAYERS, heads=HEADS, positions="learned")
    model.build(DataSpec("sequence", (tokens,), (categories(SYMBOLS),)))
    theirs = other.transformer
    pairs = [(model.symbols.weight, theirs.wte.weight), (model.first, theirs.wte.weight[0]), (model.net.places, theirs.wpe.weight[:tokens])]
    for b, o in zip(model.net.blocks, theirs.h, strict=True):
        pairs += [(b.norm1.weight, o.ln_1.weight), (b.norm2.weight, o.ln_2.weight)]
        for mine, conv in ((b.qkv, o.attn.c_attn), (b.out, o.attn.c_proj), (b.up, o.mlp.c_fc), (b.down, o.mlp.c_proj)):
            pairs.append((mine.weight, conv.weight.T))
    pairs += [(model.net.norm.weight, theirs.ln_f.weight), (model.out.bias, torch.zeros(SYMBOLS))]
    for to, source in pairs:
        to.copy_(source)
    return model


def generate(other: Any, batch: int, tokens: int) -> Callable[[], Any]:
    start = torch.zeros(batch, 1, dtype=torch.long)
    mask = torch.ones_like(start)
    return lambda: other.generate(
        start, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, top_k=0, use_cache=True
    )


def loop(other: Any, batch: int, tokens: int) -> Callable[[], Any]:
    @torch.inference_mode()
    def work() -> torch.Tensor:
        last, past, drawn = torch.zeros(batch, 1, dtype=torch.long), None, []
        for _ in range(tokens):
            found = other(input_ids=last, past_key_values=past, use_cache=True)
            past = found.past_key_values
            last = torch.multinomial(found.logits[:, -1].softmax(-1), 1)
            drawn.append(last)
        return torch.cat(drawn, 1)

    return work


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a folder with transformers; without it ours is timed alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="bench_generation", help="of the file under results/")
    given = parser.parse_args()
    if not given.peers:
        parser.error("--peers FOLDER: a folder with transformers, made with pip install --target FOLDER transformers")
    sys.path.append(given.peers)
    torch.set_num_threads(given.threads)
    import transformers

    other = gpt2(given.tokens)
    model = ours(other, given.tokens)
    targets = {1: ">= 1", 16: ">= 1.3"}
    settings = {"threads": given.threads, "tokens": given.tokens, "batches": given.batches, "layers": LAYERS, "width": WIDTH}
    settings |= {"heads": HEADS, "symbols": SYMBOLS, "transformers": transformers.__version__, "precision": "float32"}
    with Result(given.name, settings=settings, seeds=[0]) as result:
        x = torch.randint(SYMBOLS, (4, given.tokens), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            theirs = other(torch.cat([torch.zeros(4, 1, dtype=torch.long), x[:, :-1]], 1)).logits.log_softmax(-1)
            log_p = model.per_token(x)
        difference = float((theirs.gather(2, x[..., None]).squeeze(2) - log_p).abs().max())
        result.add("log-probabilities, largest difference", difference, unit="nats", kind="measured", target="<= 1e-3")
        for batch in given.batches:
            works = {
                "pushforward": lambda batch=batch: model.sample(batch, seed=0),
                "transformers, generate": generate(other, batch, given.tokens),
                "transformers, a loop": loop(other, batch, given.tokens),
            }
            rows = interleave(works, floor="pushforward", repeats=given.repeats, unit="call")
            for name, row in rows.items():
                result.add(f"batch {batch}: {name}", row["seconds"], unit="s", kind="median")
            best = min((name for name in works if name != "pushforward"), key=lambda name: rows[name]["ratio"])
            for name in works:
                if name != "pushforward":
                    target = targets.get(batch) if name == best else None
                    result.add(
                        f"batch {batch}: times as fast as {name}", rows[name]["ratio"], unit="x", kind="median of rounds", target=target
                    )
