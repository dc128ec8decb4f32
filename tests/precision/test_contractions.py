import re
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from gradlab import emulated_fp16
from gradlab.errors import GradlabError
from gradlab.precision import contractions
from gradlab.precision.contractions import REFUSED, WIDENED, kernels

NAMES = re.compile(
    "mm(?!a|ing)|mv|matmul|conv(?!ert)|linear|dot|rnn|lstm|gru|attention|einsum|tensordot|dist"
)
"""How torch names what multiplies and sums (mm, but neither gamma nor hamming)."""

REVIEWED = {
    # Built on operations that are emulated: the test beneath calls them.
    "_euclidean_dist",
    "_foreach_mm",
    "_grouped_mm",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
    # No kernel for FP16 on a CPU: torch says so itself.
    "_cdist_backward",
    "_cdist_forward",
    "_nnpack_spatial_convolution",
    "_pdist_backward",
    "_pdist_forward",
    # Places for other devices' kernels; on a CPU they raise.
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_fused_attention_overrideable_backward",
    "convolution_backward_overrideable",
    "convolution_overrideable",
    # fp8, integers or quantised tensors in: no FP16 operand.
    "_int_mm",
    "_scaled_mm",
    "_scaled_mm_v2",
    "quantized_gru",
    "quantized_lstm",
    # One element from a few, or a change of layout: no products are summed.
    "_convert_weight_to_int4pack_for_cpu",
    "_cummax_helper",
    "_cummin_helper",
    "_upsample_bilinear2d_aa",
    "_upsample_bilinear2d_aa_backward",
    "cummax",
    "cummin",
    "dist",
    "mkldnn_reorder_conv2d_weight",
    "mkldnn_reorder_conv3d_weight",
    "mvlgamma",
    "mvlgamma_",
    "upsample_bilinear2d",
    "upsample_bilinear2d_backward",
    "upsample_linear1d",
    "upsample_linear1d_backward",
    "upsample_trilinear3d",
    "upsample_trilinear3d_backward",
}


def runs_on_a_cpu(name: str) -> bool:
    """Whether a CPU tensor can reach a kernel of the operation's own (out= ones call others)."""
    keys = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return "out" not in name.partition(".")[2] and any(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys
    )


def known() -> set[str]:
    return {name.removeprefix("aten::") for name in (*WIDENED, *REFUSED)} | REVIEWED


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="reviewed for torch 2.13")
def test_every_contraction_of_this_torch_is_emulated_refused_or_reviewed():
    names = {
        name.removeprefix("aten::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and NAMES.search(name) and runs_on_a_cpu(name)
    }
    assert names - known() == set()


def test_whatever_torch_counts_flops_of_is_known():
    names = {getattr(op, "_qualified_op_name", "") for op in flop_registry}
    on_cpu = {name for name in names if name and runs_on_a_cpu(name)}
    assert {"aten::mm", "aten::convolution_backward"} <= on_cpu
    assert {name.removeprefix("aten::") for name in on_cpu} <= known()


def test_every_listed_name_is_an_operation():
    found = {op._schema.name for op, _ in kernels()}
    assert set(WIDENED) <= found
    if sys.platform == "linux":  # other builds of torch may lack oneDNN's
        assert set(REFUSED) <= found


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.cdist(x.tile(2, 1), x.tile(2, 1)),
        lambda x: torch._grouped_mm(x, x.expand(2, 16, 16), offs=torch.tensor([8, 16]).int()),
        pytest.param(
            lambda x: torch._foreach_mm([x], [x]),
            marks=pytest.mark.skipif(not hasattr(torch, "_foreach_mm"), reason="a newer torch's"),
        ),
        lambda x: torch.linalg.multi_dot([x, x, x]),
        lambda x: torch.linalg.matrix_power(x, 2),
        lambda x: torch.linalg.matrix_exp(x),
        lambda x: torch.vmap(torch.mv)(x[None], x[:1]),
        lambda x: torch.func.grad(lambda y: (y @ y).sum())(x),
        lambda x: torch.cov(x),
        lambda x: nn.MultiheadAttention(16, 2).half().eval()(x[None], x[None], x[None]),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_is_built_on_products_reaches_them(monkeypatch, compute, inference):
    def refuse(*operands, **_):
        raise GradlabError("reached")

    monkeypatch.setattr(contractions, "matrix_product", refuse)
    monkeypatch.setattr(contractions, "batched_product", refuse)
    monkeypatch.setattr(contractions, "_widen", refuse)
    x = torch.ones(16, 16).half()
    with torch.inference_mode(inference), emulated_fp16(), pytest.raises(GradlabError, match="rea"):
        compute(x)


def test_unhandled_products_are_named():
    x = torch.ones(4, 32).half()
    weight = torch.ones(16, 32, dtype=torch.int8)
    with emulated_fp16():
        with pytest.raises(GradlabError, match=r"^aten::_weight_int8pack_mm multiplies FP16"):
            torch._weight_int8pack_mm(x, weight, torch.ones(16).half())
        with pytest.raises(GradlabError, match=r"^aten::mm .*sparse_coo"):
            x.to_sparse() @ x.T
        with pytest.raises(GradlabError, match=r"^aten::_sparse_addmm .*"):
            torch.sparse.mm(x.to_sparse(), x.T)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="oneDNN has no fp16 on this CPU"
)
def test_recurrent_kernel_of_onednn_is_named_with_a_way_out():
    layer, x = nn.LSTM(4, 5).half(), torch.ones(3, 2, 4).half()
    with emulated_fp16(), torch.inference_mode():
        with pytest.raises(GradlabError, match=r"^aten::mkldnn_rnn_layer .*mkldnn\.enabled"):
            layer(x)
        torch.backends.mkldnn.enabled = False
        try:
            assert layer(x)[0].shape == (3, 2, 5)
        finally:
            torch.backends.mkldnn.enabled = True


def test_refusal_inside_a_backward_pass_stays_our_error():
    class Packed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            weight = torch.ones(16, 32, dtype=torch.int8)
            return torch._weight_int8pack_mm(grad, weight, torch.ones(16).half())

    x = torch.ones(4, 32).half().requires_grad_()
    with emulated_fp16(), pytest.raises(GradlabError, match="_weight_int8pack_mm"):
        Packed.apply(x).backward(torch.ones(4, 32).half())


def test_refused_operations_take_other_dtypes():
    x, weight = torch.ones(4, 32).bfloat16(), torch.ones(16, 32, dtype=torch.int8)
    scales = torch.ones(16).bfloat16()
    expected = torch._weight_int8pack_mm(x, weight, scales)
    with emulated_fp16():
        assert torch.equal(torch._weight_int8pack_mm(x, weight, scales), expected)
        sparse = torch.eye(4).to_sparse()
        assert torch.equal(torch.sparse.mm(sparse, torch.ones(4, 4)), torch.ones(4, 4))
