"""The claims of the NormFormer paper that a small model can test.

Shleifer, Weston and Ott, 2021; each claim says where. The paper's smallest models are 50 to 400
times larger: a claim that is not seen here may hold there.
"""

from functools import partial
from typing import Any

from gradlab.analyses.claim import Claim
from gradlab.analyses.claim_estimates import (
    break_ratio,
    gradient_mismatch,
    largest_relative_gradient,
    largest_scale_mean,
    perplexity_ratio,
    relative_gradient,
    remaining_mismatch,
    scale_correlation,
    scale_mean,
    scale_slope,
    share_saved,
)
from gradlab.models.presets import ALL_OPERATIONS, BASELINE

ATTENTION = ("q", "k", "v", "out")
FULLY_CONNECTED = ("fc1", "fc2")

WEAK = 0.3
"""A correlation up to which depth explains under a tenth of the variance: no relation."""

_GRADIENTS: dict[str, Any] = {"study": "gradients", "table": "mismatch"}
_RELATIVE: dict[str, Any] = {"study": "scales", "table": "relative", "source": "figure 7"}
_SCALES: dict[str, Any] = {"study": "scales", "table": "scales", "source": "figure 4"}
_BREAKS: dict[str, Any] = {"study": "stability", "table": "stability", "source": "figure 5"}
_LOSSES: dict[str, Any] = {"study": "ablation", "table": "losses"}
_ABLATED: dict[str, Any] = {
    **_LOSSES,
    "source": "table 4",
    "meaning": "final perplexity over that of all operations, at equal time",
    "above": 1.0,
}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "post-ln-gradients",
        "Post-LN's later layers have the larger gradients",
        "figure 3",
        **_GRADIENTS,
        meaning="fc2's mean gradient L1, first two layers over last two",
        estimate=partial(gradient_mismatch, arch="post-ln", op="fc2"),
        below=1,
    ),
    Claim(
        "pre-ln-gradients",
        "Pre-LN's early layers have the larger gradients",
        "figure 3",
        **_GRADIENTS,
        meaning="fc2's mean gradient L1, first two layers over last two",
        estimate=partial(gradient_mismatch, arch="pre-ln", op="fc2"),
        above=1,
    ),
    Claim(
        "normformer-fc2",
        "NormFormer brings the layers' gradients closer together",
        "figure 3",
        **_GRADIENTS,
        meaning="fc2's mismatch over Pre-LN's",
        estimate=partial(remaining_mismatch, arch="normformer", baseline=BASELINE, op="fc2"),
        below=1,
    ),
    Claim(
        "normformer-fc1",
        "NormFormer brings those of the first fully connected weight closer, too",
        "conclusion",
        **_GRADIENTS,
        meaning="fc1's mismatch over Pre-LN's",
        estimate=partial(remaining_mismatch, arch="normformer", baseline=BASELINE, op="fc1"),
        below=1,
    ),
    Claim(
        "fc-late-gradients",
        "NormFormer enlarges the gradients of late fully connected weights",
        **_RELATIVE,
        meaning="fc1 and fc2 in the last two layers, over Pre-LN's",
        estimate=partial(relative_gradient, arch="normformer", ops=FULLY_CONNECTED, end="late"),
        above=1,
    ),
    Claim(
        "fc-early-gradients",
        "NormFormer reduces the gradients of early fully connected weights",
        **{**_RELATIVE, "source": "section 1"},
        meaning="fc1 and fc2 in the first two layers, over Pre-LN's",
        estimate=partial(relative_gradient, arch="normformer", ops=FULLY_CONNECTED, end="early"),
        below=1,
    ),
    Claim(
        "attention-gradients",
        "NormFormer reduces the gradients of the attention's weights",
        **_RELATIVE,
        meaning="q, k, v and out in all layers, over Pre-LN's",
        estimate=partial(relative_gradient, arch="normformer", ops=ATTENTION),
        below=1,
    ),
    Claim(
        "attention-gradients-every-layer",
        "NormFormer reduces the gradients of the attention's weights in every layer",
        **_RELATIVE,
        meaning="q, k, v and out in the layer where it is largest, over Pre-LN's",
        estimate=partial(largest_relative_gradient, arch="normformer", ops=ATTENTION),
        below=1,
    ),
    Claim(
        "ffn-gamma",
        "γ of the FFN LN is smaller in early layers",
        **_SCALES,
        meaning="slope over the whole depth",
        estimate=partial(scale_slope, arch="normformer", op="ffn_mid_norm"),
        above=0,
    ),
    Claim(
        "post-attention-gamma",
        "γ of the post-attention LN is below 1",
        **_SCALES,
        meaning="mean over all layers",
        estimate=partial(scale_mean, arch="normformer", op="attn_out_norm"),
        below=1,
    ),
    Claim(
        "post-attention-gamma-every-layer",
        "γ of the post-attention LN is below 1 in every layer",
        **_SCALES,
        meaning="mean of the layer where it is largest",
        estimate=partial(largest_scale_mean, arch="normformer", op="attn_out_norm"),
        below=1,
    ),
    Claim(
        "head-scale-depth",
        "Head scales have no relation to depth",
        **_SCALES,
        meaning=f"correlation with the layer; none: within ±{WEAK}",
        estimate=partial(scale_correlation, arch="normformer", op="head_scale"),
        above=-WEAK,
        below=WEAK,
    ),
    Claim(
        "lambda-depth",
        "λ_resid falls with depth",
        **{**_SCALES, "source": "figure 6"},
        meaning="slope over the whole depth",
        estimate=partial(scale_slope, arch=ALL_OPERATIONS, op="lambda_resid"),
        below=0,
    ),
    Claim(
        "normformer-stability",
        "NormFormer survives a higher learning rate",
        **_BREAKS,
        meaning="learning rate at the break, over Pre-LN's",
        estimate=partial(break_ratio, arch="normformer", baseline=BASELINE),
        above=1,
    ),
    Claim(
        "lambda-stability",
        "λ_resid takes some of that away",
        **_BREAKS,
        meaning="learning rate at the break with λ_resid, over that without",
        estimate=partial(break_ratio, arch=ALL_OPERATIONS, baseline="normformer"),
        below=1,
    ),
    Claim(
        "normformer-perplexity",
        "NormFormer has a lower perplexity at equal compute",
        "figure 2, table 2",
        **_LOSSES,
        meaning="final perplexity over Pre-LN's, at equal time",
        estimate=partial(perplexity_ratio, arch="normformer", reference=BASELINE),
        below=1,
    ),
    Claim(
        "all-operations-perplexity",
        "NormFormer with λ_resid has a lower perplexity at equal compute",
        "table 2",
        **_LOSSES,
        meaning="final perplexity over Pre-LN's, at equal time",
        estimate=partial(perplexity_ratio, arch=ALL_OPERATIONS, reference=BASELINE),
        below=1,
    ),
    Claim(
        "compute-saved",
        "NormFormer is as good as Pre-LN with less compute",
        "figure 2",
        study="ablation",
        table="curves",
        meaning="share of Pre-LN's time saved when first as good as Pre-LN's best",
        estimate=partial(share_saved, arch="normformer", baseline=BASELINE),
        above=0,
    ),
    *(
        Claim(
            f"without-{name}",
            f"Without {what} NormFormer is worse",
            **_ABLATED,
            estimate=partial(perplexity_ratio, arch=arch, reference=ALL_OPERATIONS),
        )
        for name, arch, what in (
            ("post-attention-ln", "minus-post-attn-ln", "the post-attention LN"),
            ("ffn-ln", "minus-ffn-ln", "the FFN LN"),
            ("head-scale", "minus-head-scale", "head scales"),
            ("lambda", "normformer", "λ_resid"),
        )
    ),
    Claim(
        "plus-3-more-ln",
        "Norms on q, k and v as well do not help",
        **_ABLATED,
        estimate=partial(perplexity_ratio, arch="plus-3-more-ln", reference=ALL_OPERATIONS),
    ),
)
"""The claims, in the order of their studies."""
