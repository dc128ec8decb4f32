"""What the paper's sizes take on known GPUs: memory, time of an update, and a figure 5 of all four.

    python benchmarks/gpu_cost.py
    python benchmarks/gpu_cost.py --gpu H100 --share 0.4

Arithmetic from the configs (FLOPs a token, bytes of weights, gradients and Adam's moments), the
cards' data sheets, and what was measured on an H200 with 125M in bf16 (docs/gpu.md): the share of
the products' peak that a whole step reached, and the memory beside the weights.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlab.models.config import ModelConfig
from gradlab.models.cost import flops_per_token, parameter_count, training_state_bytes
from gradlab.models.presets import model_config


@dataclass(frozen=True)
class Card:
    """A GPU as its maker's data sheet has it.

    Attributes:
        peak: FLOP/s of dense products with FP16 or bf16 operands and fp32 sums.
        bandwidth: Bytes/s of its memory.
        memory: Bytes.
    """

    peak: float
    bandwidth: float
    memory: float


CARDS = {
    "A100": Card(312e12, 2.04e12, 80e9),
    "H100": Card(989e12, 3.35e12, 80e9),
    "H200": Card(989e12, 4.8e12, 141e9),
    "B200": Card(2250e12, 8.0e12, 180e9),
}
"""SXM cards."""

UPDATES = {"125M": 524_288, "355M": 524_288, "1.3B": 1_048_576, "2.7B": 1_048_576}
"""The paper's tokens an update, by size."""

SHARE = 0.123
"""Of the data sheet's peak, by 125M's whole step of 8 x 1,024 tokens on an H200 (57.8 ms)."""

MEASURED_BYTES, MEASURED_TOKENS = 8.4e9, 8 * 1024
"""Beside the weights and Adam's moments in that step, Pre-LN with fused attention."""

LOGIT = 10
"""Bytes that a logit is taken to keep: bf16, fp32 and their gradients. The layers have the rest."""

ADAM = 28
"""Bytes that a fused AdamW reads and writes for a parameter: w, g, m and v; w, m and v."""

RAMP_STEPS = 470
"""Of a ramp of 5e-5 a step until NormFormer breaks, as measured at 125M."""

ARCHITECTURES, SEEDS = 3, 3


def activation_bytes(config: ModelConfig) -> float:
    """Bytes that a token keeps for the backward pass, scaled from the step that was measured.

    A layer's are taken to grow as layers x d_model.
    """
    measured = model_config("pre-ln", "125M")
    logits = LOGIT * measured.vocab_size
    layers = MEASURED_BYTES / MEASURED_TOKENS - logits
    grown = config.n_layers * config.d_model / (measured.n_layers * measured.d_model)
    return layers * grown + LOGIT * config.vocab_size


def update_seconds(config: ModelConfig, tokens: int, card: Card, share: float) -> float:
    """Seconds of an update on one card, at a share of its peak."""
    products = tokens * flops_per_token(config) / (card.peak * share)
    return products + ADAM * parameter_count(config) / card.bandwidth


def rows(gpus: Sequence[str], share: float) -> Iterator[tuple[str, ...]]:
    """A row a size and card."""
    for size, tokens in UPDATES.items():
        config = model_config("pre-ln", size)
        state = training_state_bytes(config, "fp32")
        sequence = activation_bytes(config) * config.max_seq_len
        for gpu in gpus:
            card = CARDS[gpu]
            fits = int((card.memory - state) / sequence)
            slow, fast = (update_seconds(config, tokens, card, s) for s in (share, 1.0))
            hours = ARCHITECTURES * SEEDS * RAMP_STEPS * slow / 3600
            yield (
                size,
                gpu,
                f"{state / 1e9:.1f}",
                f"{sequence / 1e9:.1f}",
                str(fits),
                f"{tokens * flops_per_token(config) / 1e15:.2f}",
                _short(fast),
                _short(slow),
                _short(hours),
            )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


HEADINGS = (
    "size",
    "GPU",
    "state, GB",
    "a sequence, GB",
    "sequences that fit",
    "PFLOP an update",
    "s at the peak",
    "s at the share",
    "GPU hours of figure 5",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="append", choices=CARDS, help="one; repeat for more")
    parser.add_argument(
        "--share", type=float, default=SHARE, help="of the peak that a step reaches, 0 to 1"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share {options.share}: give a number above 0 and up to 1.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    options = parse(arguments)
    for cells in (
        HEADINGS,
        ("---",) * len(HEADINGS),
        *rows(options.gpu or [*CARDS], options.share),
    ):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
