"""Train three small models, and draw the pictures of the documentation that show how a run went.

pip install 'gradlab-diagnostics[transformers]'
python docs/images/draw_runs.py

One is gradlab's, on a learning rate that rises until training breaks in emulated FP16. Two are
Hugging Face's GPT-2 in a loop of its own: `fp16`, whose queries, keys and values are
multiplied by 600 at step 70, and `bf16` without that.
"""

import argparse
import tempfile
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

import gradlab

IMAGES = Path(__file__).parent
RAMP = ("course", "gradients_over_steps", "gradient_grid", "scores_over_steps", "headroom")
RAMP += ("scales_over_steps", "updates_over_steps")
GPT2 = ("course", "gradients_fc2", "gradient_sizes")
PROBES = ("headroom", "grad_norms", "scales", "scores", "optimizer")
VOCABULARY, LENGTH = 64, 32


def train_gpt2(folder: Path, dtype: torch.dtype, *, spoil_at: int | None = None) -> None:
    """A loop of one's own: 120 steps on random text."""
    torch.manual_seed(0)
    shape = {"n_layer": 4, "n_embd": 64, "n_head": 4, "n_positions": LENGTH}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
    model = GPT2LMHeadModel(GPT2Config(**shape, **ends, vocab_size=VOCABULARY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    narrow = dtype == torch.float16
    scaler = torch.amp.GradScaler("cpu", growth_interval=20, enabled=narrow)
    text = torch.randint(VOCABULARY, (64, LENGTH))
    attached = gradlab.attach(model, optimizer, scaler=scaler, every=4, out=folder)
    with gradlab.emulated_fp16() if narrow else nullcontext(), attached as probes:
        for step in range(120):
            if step == spoil_at:
                with torch.no_grad():
                    model.transformer.h[2].attn.c_attn.weight.mul_(600)
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 20)
            tokens = text[torch.randint(len(text), (8,))]
            with torch.autocast("cpu", dtype=dtype):
                loss = model(input_ids=tokens, labels=tokens).loss
            probes.loss(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def write(figure: Figure, file: Path) -> None:
    """A small PNG: 130 dots an inch, 128 colours."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=130)
    Image.open(content).convert("RGB").quantize(128).save(file, optimize=True)


def draw_ramp(out: Path) -> None:
    """The pictures of gradlab's run."""
    ramp = gradlab.train(
        "normformer-resscale",
        "nano",
        precision="fp16",
        schedule="ramp",
        lr_step=6e-4,
        steps=600,
        every=5,
        probes=list(PROBES),
    )
    for name, figure in gradlab.draw(ramp).items():
        if name in RAMP:
            write(figure, out / f"ramp_{name}.png")


def draw_gpt2(out: Path) -> None:
    """The pictures of one GPT-2 against the other."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in ("fp16", "bf16")]
        train_gpt2(runs[0], torch.float16, spoil_at=70)
        train_gpt2(runs[1], torch.bfloat16)
        for name, figure in gradlab.draw(runs).items():
            if name in GPT2:
                write(figure, out / f"gpt2_{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    folder = parser.parse_args().out
    mpl.use("agg")
    draw_ramp(folder)
    draw_gpt2(folder)
