"""The article's claims, each with the number that it is judged by and where it holds."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.claim import Claim
from gradlab.analyses.claim_estimates import Estimate, geometric, plain

Rows = Mapping[str, Any]
"""Column → what stands there in the runs that are meant."""


def by_seed(table: pd.DataFrame, value: str, rows: Rows) -> "pd.Series[float]":
    """A value of the runs that are meant, by seed.

    Args:
        table: A row a run.
        value: A column, or an expression of columns (`pandas.DataFrame.eval`).
        rows: Which runs.
    """
    for column, wanted in rows.items():
        table = table[table[column] == wanted]
    found = np.asarray(table.eval(value), dtype=np.float64)
    return pd.Series(found, index=pd.Index(table["seed"]))


def mean(table: pd.DataFrame, value: str, of: Rows) -> Estimate:
    """The mean over seeds."""
    return plain(by_seed(table, value, of))


def geometric_mean(table: pd.DataFrame, value: str, of: Rows) -> Estimate:
    """The same of a ratio."""
    return geometric(by_seed(table, value, of))


def difference(table: pd.DataFrame, value: str, of: Rows, than: Rows) -> Estimate:
    """How much larger it is than in other runs, over pairs of one seed."""
    return plain((by_seed(table, value, of) - by_seed(table, value, than)).dropna())


def ratio(table: pd.DataFrame, value: str, of: Rows, than: Rows) -> Estimate:
    """How many times as large it is as in other runs, over pairs of one seed."""
    return geometric((by_seed(table, value, of) / by_seed(table, value, than)).dropna())


def perplexity_ratio(table: pd.DataFrame, of: Rows, than: Rows) -> Estimate:
    """How many times as high the validation perplexity is as in other runs."""
    return ratio(table.assign(perplexity=np.exp(table["val_loss"])), "perplexity", of, than)


def _at(arch: str, depth: int, warmup: int = 0, study: str = "depths") -> Rows:
    return {"study": study, "arch": arch, "depth": depth, "warmup": warmup}


_SCANS: dict[str, Any] = {"study": "scans", "table": "scans"}
_LOSSES: dict[str, Any] = {"study": "losses", "table": "losses", "source": "Common Pitfalls"}
_LOOPS: dict[str, Any] = {"study": "loops", "table": "loops"}
_PLACES: dict[str, Any] = {**_SCANS, "source": "Pre-LN vs. Post-LN"}
_BOTTLENECK: dict[str, Any] = {**_SCANS, "source": "The Depth Bottleneck"}
_EDGE: dict[str, Any] = {**_SCANS, "source": "Edge Cases"}
_PITFALLS: dict[str, Any] = {"source": "Common Pitfalls"}

_POST, _PRE = _at("post-ln", 24), _at("pre-ln", 24)
_DROPPED = {arch: _at(arch, 24, study="dropped") for arch in ("post-ln", "pre-ln")}
_KEPT = {"how": "kept"}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "post-ln-late",
        "Post-LN's gradients are larger in the last layers, at the first step",
        **_PLACES,
        meaning="mean gradient of the first layer over the last's, 24 layers",
        estimate=partial(geometric_mean, value="first_start / last_start", of=_POST),
        below=1,
    ),
    Claim(
        "pre-ln-early",
        "Pre-LN's gradients reach the first layers, at the first step",
        **_PLACES,
        meaning="mean gradient of the first layer over the last's, 24 layers",
        estimate=partial(geometric_mean, value="first_start / last_start", of=_PRE),
        above=1,
    ),
    Claim(
        "post-ln-vanishes",
        "Deep Post-LN's first layers lose their gradients as it trains",
        **_PLACES,
        meaning="mean gradient of the first layer over the last's, 24 layers, last step",
        estimate=partial(geometric_mean, value="first_end / last_end", of=_POST),
        below=1e-3,
    ),
    Claim(
        "post-ln-fails",
        "Post-LN without warm-up does not train at 24 layers",
        **_PLACES,
        meaning="loss less that of counting bytes, nats",
        estimate=partial(mean, value="loss - entropy", of=_POST),
        above=0,
    ),
    Claim(
        "pre-ln-trains",
        "Pre-LN without warm-up does",
        **_PLACES,
        meaning="loss less that of counting bytes, nats",
        estimate=partial(mean, value="loss - entropy", of=_PRE),
        below=0,
    ),
    Claim(
        "post-ln-behind",
        "Post-LN without warm-up trains worse than Pre-LN at 24 layers",
        **_PLACES,
        meaning="Post-LN's loss less Pre-LN's, nats",
        estimate=partial(difference, value="loss", of=_POST, than=_PRE),
        above=0,
    ),
    Claim(
        "pre-ln-hundreds",
        "It does with hundreds of layers",
        **_PLACES,
        meaning="loss less that of counting bytes, 200 layers, nats",
        estimate=partial(mean, value="loss - entropy", of=_at("pre-ln", 200, study="hundreds")),
        below=0,
    ),
    Claim(
        "warm-up-mends",
        "With a warm-up Post-LN trains at 24 layers",
        **_PLACES,
        meaning="loss less that of counting bytes, 50 of 150 steps being warm-up, nats",
        estimate=partial(mean, value="loss - entropy", of=_at("post-ln", 24, 50)),
        below=0,
    ),
    *(
        Claim(
            f"warm-up-{arch}",
            f"{name} of 6 layers needs a warm-up at three times the rate, 3e-3",
            **_PLACES,
            meaning="loss with 50 of 150 steps being warm-up, less that without, nats",
            estimate=partial(
                difference,
                value="loss",
                of=_at(arch, 6, 50, study="fast"),
                than=_at(arch, 6, study="fast"),
            ),
            below=0,
        )
        for arch, name in (("post-ln", "Post-LN"), ("pre-ln", "Pre-LN"))
    ),
    Claim(
        "returns-diminish",
        "More layers help Pre-LN less and less",
        **_BOTTLENECK,
        meaning="what it gains from 12 to 24 layers less what it gains from 6 to 12, nats",
        estimate=lambda table: plain(
            2 * by_seed(table, "loss", _at("pre-ln", 12))
            - by_seed(table, "loss", _at("pre-ln", 24))
            - by_seed(table, "loss", _at("pre-ln", 6))
        ),
        below=0,
    ),
    Claim(
        "more-is-worse-post-ln",
        "In the end more layers do harm, in Post-LN",
        **_BOTTLENECK,
        meaning="loss at 24 layers less that at 12, as many steps, nats",
        estimate=partial(difference, value="loss", of=_POST, than=_at("post-ln", 12)),
        above=0,
    ),
    Claim(
        "more-is-worse",
        "In the end more layers do harm, in Pre-LN",
        **_BOTTLENECK,
        meaning="loss at 48 layers less that at 24, as many steps, nats",
        estimate=partial(difference, value="loss", of=_at("pre-ln", 48, study="deeper"), than=_PRE),
        above=0,
    ),
    *(
        Claim(
            f"attention-uniform-{arch}",
            f"Attention goes uniform with depth in {name}",
            **_BOTTLENECK,
            meaning="attention entropy, mean over heads, at 24 layers less that at 6",
            estimate=partial(
                difference, value="attention_end", of=_at(arch, 24), than=_at(arch, 6)
            ),
            above=0,
        )
        for arch, name in (("post-ln", "Post-LN"), ("pre-ln", "Pre-LN"))
    ),
    *(
        Claim(
            f"layers-alike-{arch}",
            f"Layers of a deep {name} give nearly what they are given",
            **_EDGE,
            meaning="linear CKA of a layer's input and output, mean over layers, at 24 less at 6",
            estimate=partial(difference, value="cka_end", of=_at(arch, 24), than=_at(arch, 6)),
            above=0,
        )
        for arch, name in (("post-ln", "Post-LN"), ("pre-ln", "Pre-LN"))
    ),
    *(
        Claim(
            f"tokens-alike-{arch}",
            f"Tokens of a deep {name} become alike",
            **_EDGE,
            meaning="cosine between tokens in the last layer, at 24 layers less at 6",
            estimate=partial(difference, value="cosine", of=_at(arch, 24), than=_at(arch, 6)),
            above=0,
        )
        for arch, name in (("post-ln", "Post-LN"), ("pre-ln", "Pre-LN"))
    ),
    *(
        Claim(
            f"stochastic-depth-{what}-{arch}",
            f"Stochastic depth makes {name}'s {words} less alike",
            **_EDGE,
            meaning=f"{meaning}, with 0.2 less without, 24 layers",
            estimate=partial(difference, value=value, of=_DROPPED[arch], than=_at(arch, 24)),
            below=0,
        )
        for what, words, value, meaning in (
            ("layers", "layers", "cka_end", "linear CKA of a layer's input and output"),
            ("tokens", "tokens", "cosine", "cosine between tokens in the last layer"),
        )
        for arch, name in (("post-ln", "Post-LN"), ("pre-ln", "Pre-LN"))
    ),
    Claim(
        "stochastic-depth-mends",
        "With stochastic depth Post-LN trains at 24 layers",
        **_EDGE,
        meaning="loss less that of counting bytes, nats",
        estimate=partial(mean, value="loss - entropy", of=_DROPPED["post-ln"]),
        below=0,
    ),
    Claim(
        "residuals-grow",
        "Residual sums do not keep activations in range without norms",
        **_PITFALLS,
        **_SCANS,
        meaning="standard deviation behind the last of 24 layers over Pre-LN's, first step",
        estimate=partial(ratio, value="std_start", of=_at("pre-ln", 24, study="bare"), than=_PRE),
        above=1,
    ),
    *(
        Claim(
            f"residuals-not-enough-{depth}",
            f"Without norms {depth} layers train worse",
            **_PITFALLS,
            **_SCANS,
            meaning="loss less Pre-LN's, nats",
            estimate=partial(
                difference,
                value="loss",
                of=_at("pre-ln", depth, study="bare"),
                than=_at("pre-ln", depth),
            ),
            above=0,
        )
        for depth in (6, 12)
    ),
    Claim(
        "norms-throughout",
        "Norms are needed beyond the start of training",
        **_PITFALLS,
        **_LOOPS,
        meaning="loss 100 steps after they were removed, less that with them, nats",
        estimate=partial(difference, value="loss", of={"how": "removed"}, than=_KEPT),
        above=0,
    ),
    Claim(
        "statistics-throughout",
        "It is the changing statistics that are needed",
        **_PITFALLS,
        **_LOOPS,
        meaning="loss 100 steps after they were made constant, less that with norms, nats",
        estimate=partial(difference, value="loss", of={"how": "constant"}, than=_KEPT),
        above=0,
    ),
    *(
        Claim(
            f"shift-{what}",
            f"Norms keep the {words} of what a sublayer is given from drifting",
            "Key Terms",
            **_LOOPS,
            meaning="drift in ten steps with norms over that of a model without, 6 layers",
            estimate=partial(ratio, value=f"{what}_shift", of=_KEPT, than={"how": "never"}),
            below=1,
        )
        for what, words in (("mean", "mean"), ("std", "spread"))
    ),
    Claim(
        "batch-norm",
        "BatchNorm does not do in LayerNorm's place",
        **_LOSSES,
        meaning="validation perplexity over LayerNorm's",
        estimate=partial(perplexity_ratio, of={"arch": "batch-norm"}, than={"arch": "pre-ln"}),
        above=1,
    ),
    Claim(
        "rmsnorm",
        "RMSNorm is as good as LayerNorm",
        **{**_LOSSES, "source": "Key Terms"},
        meaning="validation perplexity over LayerNorm's; as good: within 2 %",
        estimate=partial(perplexity_ratio, of={"arch": "pre-rmsnorm"}, than={"arch": "pre-ln"}),
        above=0.98,
        below=1.02,
    ),
)
"""The claims, in the article's order."""
