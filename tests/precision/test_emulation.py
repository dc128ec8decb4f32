from collections.abc import Callable
from copy import deepcopy
from threading import Thread

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab import emulated_fp16
from gradlab.errors import GradlabError
from gradlab.precision import contractions


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).half()


def installed() -> list[bool]:
    return [
        torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "BackendSelect")
        for op, _ in contractions.kernels()
    ]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the products that emulation computed, in their order."""
    seen: list[torch.Size] = []
    for name in ("matrix_product", "batched_product"):
        monkeypatch.setattr(contractions, name, _noting(getattr(contractions, name), seen))
    return seen


def _noting(product: Callable[..., Tensor], seen: list[torch.Size]) -> Callable[..., Tensor]:
    def noting(*args: Tensor, **kwargs: float) -> Tensor:
        result = product(*args, **kwargs)
        seen.append(result.shape)
        return result

    return noting


UNARY_PRODUCTS = {
    "mm": ((5, 30), (30, 7), torch.mm),
    "bmm": ((3, 5, 30), (3, 30, 7), torch.bmm),
    "matmul, 4-d": ((2, 3, 5, 30), (2, 3, 30, 7), torch.matmul),
    "matmul, broadcast": ((2, 3, 5, 30), (30, 7), torch.matmul),
    "matmul, vectors": ((30,), (30,), torch.matmul),
    "mv": ((5, 30), (30,), torch.mv),
    "dot": ((30,), (30,), torch.dot),
    "einsum": ((3, 5, 30), (3, 30, 7), lambda a, b: torch.einsum("bik,bkj->bij", a, b)),
    "tensordot": ((5, 30), (30, 7), lambda a, b: torch.tensordot(a, b, 1)),
    "inner": ((5, 30), (7, 30), torch.inner),
}


@pytest.mark.parametrize("context", ["grad", "no_grad", "inference_mode"])
@pytest.mark.parametrize("name", UNARY_PRODUCTS)
def test_products_against_float64_and_native_half(holds, generator, name, context):
    left_shape, right_shape, product = UNARY_PRODUCTS[name]
    left, right = randn(generator, *left_shape), randn(generator, *right_shape)
    grad = {"grad": torch.enable_grad, "no_grad": torch.no_grad}.get(context, torch.inference_mode)
    with grad(), emulated_fp16():
        result = product(left, right)
    native = product(left, right)
    value = product(left.double(), right.double())
    magnitude = product(left.double().abs(), right.double().abs())
    holds(result, value, 30, magnitude)
    holds(result, native.double(), 30, magnitude)


@pytest.mark.parametrize("shape", [(4, 30), (2, 4, 30), (2, 3, 4, 30)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_forward_and_backward(holds, generator, shape, bias):
    x, weight = randn(generator, *shape), randn(generator, 7, 30)
    addend = randn(generator, 7) if bias else None
    grad = randn(generator, *shape[:-1], 7)
    inputs = [t.requires_grad_() for t in (x, weight, addend) if t is not None]
    with emulated_fp16():
        y = F.linear(x, weight, addend)
        gradients = torch.autograd.grad(y, inputs, grad)
    wide = [t.detach().double() for t in (x, weight, *([addend] if bias else []))]
    value, magnitude = F.linear(*wide), F.linear(*(t.abs() for t in wide))
    holds(y.detach(), value, 31, magnitude)
    rows, out = wide[0].flatten(0, -2), grad.double().flatten(0, -2)
    holds(gradients[0].flatten(0, -2), out @ wide[1], 7, out.abs() @ wide[1].abs())
    holds(gradients[1], out.T @ rows, len(rows), out.abs().T @ rows.abs())


def test_forward_and_backward_overflow_alone():
    x = torch.full((2, 4), 300.0).half().requires_grad_()
    with emulated_fp16():
        y = x @ x.T  # 360000
        assert torch.equal(y, torch.full((2, 2), torch.inf).half())
        (gradient,) = torch.autograd.grad(y, x, torch.full((2, 2), 200.0).half())
    assert torch.equal(gradient, torch.full((2, 4), torch.inf).half())  # 2 · 2 · 200 · 300


FORMS = {
    "addmm": ((5, 7), (5, 30), (30, 7)),
    "addmv": ((5,), (5, 30), (30,)),
    "baddbmm": ((3, 5, 7), (3, 5, 30), (3, 30, 7)),
    "addbmm": ((5, 7), (3, 5, 30), (3, 30, 7)),
}


@pytest.mark.parametrize("form", ["", "_", "out"])
@pytest.mark.parametrize("name", FORMS)
def test_added_products_in_all_forms(holds, generator, name, form):
    addend, left, right = (randn(generator, *shape) for shape in FORMS[name])
    out = torch.empty(0).half()
    with emulated_fp16():
        if form == "_":
            target = addend.clone()
            result = getattr(target, f"{name}_")(left, right, beta=0.5, alpha=2)
            assert result is target
        elif form == "out":
            result = getattr(torch, name)(addend, left, right, beta=0.5, alpha=2, out=out)
            assert result is out
        else:
            result = getattr(torch, name)(addend, left, right, beta=0.5, alpha=2)
    wide = [t.double() for t in (addend, left, right)]
    value = getattr(torch, name)(*wide, beta=0.5, alpha=2)
    magnitude = getattr(torch, name)(*(t.abs() for t in wide), beta=0.5, alpha=2)
    holds(result, value, 91, magnitude)


def test_out_of_plain_products(holds, generator):
    left, right = randn(generator, 5, 30), randn(generator, 30, 7)
    out = torch.full((7, 5), torch.nan).half().t()
    with emulated_fp16():
        torch.mm(left, right, out=out)
    assert out.stride() == (1, 5)
    holds(out, left.double() @ right.double(), 30, left.double().abs() @ right.double().abs())


CONVOLUTIONS = {
    "conv1d": (F.conv1d, (2, 4, 9), (6, 4, 3), {"padding": 1}),
    "conv2d": (F.conv2d, (2, 4, 7, 7), (6, 4, 3, 3), {"stride": 2}),
    "conv2d, groups": (F.conv2d, (2, 4, 7, 7), (6, 2, 3, 3), {"groups": 2, "dilation": 2}),
    "conv3d": (F.conv3d, (1, 2, 5, 5, 5), (3, 2, 3, 3, 3), {}),
    "conv_transpose2d": (F.conv_transpose2d, (2, 4, 5, 5), (4, 6, 3, 3), {"stride": 2}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_forward_and_backward(holds, generator, name):
    convolve, x_shape, weight_shape, options = CONVOLUTIONS[name]
    x, weight = randn(generator, *x_shape), randn(generator, *weight_shape)
    bias = randn(generator, 3 if name == "conv3d" else 6)

    def run(*inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        leaves = [t.detach().requires_grad_() for t in inputs]
        y = convolve(*leaves, **options)
        grad = torch.ones_like(y).cumsum(-1)  # exact in fp16
        return y.detach(), list(torch.autograd.grad(y, leaves, grad))

    with emulated_fp16():
        y, gradients = run(x, weight, bias)
    wide = [t.double() for t in (x, weight, bias)]
    value, expected = run(*wide)
    magnitude, bounds = run(*(t.abs() for t in wide))
    holds(y, value, 200, magnitude)
    for gradient, exact, bound in zip(gradients, expected, bounds, strict=True):
        holds(gradient, exact, 200, bound)


@pytest.mark.parametrize("context", ["grad", "inference_mode"])
@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_is_fp32_inside(holds, generator, causal, context):
    q, k, v = (randn(generator, 2, 3, 11, 16) for _ in range(3))
    q = 100 * q  # scores that fp16 could not hold to better than one unit
    with torch.inference_mode(context != "grad"), emulated_fp16():
        result = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    wide = [t.double() for t in (q, k, v)]
    value = F.scaled_dot_product_attention(*wide, is_causal=causal)
    scores = wide[0].abs() @ wide[1].abs().mT / 4
    # An error in the scores is one in the exponent.
    magnitude = scores.amax(-1, keepdim=True) * wide[2].abs().amax()
    holds(result, value, 32, magnitude.expand_as(value))


def test_backward_of_fused_attention(generator):
    inputs = [randn(generator, 2, 3, 11, 16) for _ in range(3)]
    grad = randn(generator, 2, 3, 11, 16)

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        y = F.scaled_dot_product_attention(*leaves, is_causal=True)
        return torch.autograd.grad(y, leaves, grad.to(dtype))

    with emulated_fp16():
        gradients = run(torch.float16)
    for actual, expected in zip(gradients, run(torch.float64), strict=True):
        assert actual.dtype is torch.float16
        # The result that the formula reads has been rounded, so an ulp of the largest remains.
        assert (actual.double() - expected).abs().max() < 2.0**-10 * expected.abs().max()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_whole_model_forward_and_backward(products, generator, autocast):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True)
    x, direction = randn(generator, 2, 5, 16), randn(generator, 2, 5, 16)
    exact = deepcopy(layer).double()
    (exact(x.double()) * direction).sum().backward()
    if not autocast:
        layer.half()
    with emulated_fp16():
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            y = layer(x.float() if autocast else x)
        (y * direction).sum().backward()
    # q, k and v in one, out, the FFN's two: each forward and twice backward, but for x itself.
    assert len(products) == 3 * 4 - 1
    largest = max(p.grad.abs().max() for p in exact.parameters())
    for parameter, expected in zip(layer.parameters(), exact.parameters(), strict=True):
        assert parameter.grad.dtype is (torch.float32 if autocast else torch.float16)
        assert (parameter.grad - expected.grad).abs().max() < 0.01 * largest


def test_products_inside_fused_kernels_are_emulated(products, generator):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).half().eval()
    with torch.inference_mode(), emulated_fp16():
        layer(randn(generator, 2, 5, 16))  # one operation: _transformer_encoder_layer_fwd
    assert torch.Size((10, 48)) in products  # q, k and v
    assert torch.Size((4, 5, 5)) in products  # scores


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_in_training(products, generator, cell):
    layer = cell(4, 5).half()
    with emulated_fp16():
        layer(randn(generator, 3, 2, 4))[0].sum().backward()
    assert len(products) > 6


def test_backward_in_an_autograd_function_and_under_autocast(products, generator):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x @ x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad @ x.mT + x.mT @ grad

    x = randn(generator, 3, 3).requires_grad_()
    with emulated_fp16(), torch.autocast("cpu", torch.float16):
        Square.apply(x).sum().backward()
    assert len(products) == 3


def test_second_derivatives(products, generator):
    x = randn(generator, 3, 3).requires_grad_()
    with emulated_fp16():
        (first,) = torch.autograd.grad((x @ x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, torch.full((3, 3), 6.0).half())
    assert len(products) > 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_other_dtypes_are_untouched_to_the_bit(products, generator, dtype):
    left, right = (torch.randn(2, 40, 40, generator=generator).to(dtype) for _ in range(2))
    image, kernel = torch.randn(1, 2, 9, 9).to(dtype), torch.randn(3, 2, 3, 3).to(dtype)

    def run() -> list[Tensor]:
        x = left.clone().requires_grad_()
        y = x @ right
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        attention = F.scaled_dot_product_attention(left[None], right[None], left[None])
        linear = F.linear(left, right[0], right[1, 0])
        return [y, gradient, attention, linear, F.conv2d(image, kernel)]

    before = run()
    with emulated_fp16():
        inside = run()
    assert all(torch.equal(a, b) for a, b in zip(before, inside, strict=True))
    assert not products


def test_elementwise_fp16_is_untouched_to_the_bit(generator):
    x, y = randn(generator, 50), randn(generator, 50)

    def run() -> list[Tensor]:
        return [x + y, x * y, x.sum(), x.exp(), x.softmax(0), F.layer_norm(x, (50,)), x.cumsum(0)]

    before = run()
    with emulated_fp16():
        assert all(torch.equal(a, b) for a, b in zip(before, run(), strict=True))


def test_meta_tensors_pass():
    x = torch.empty(3, 4, dtype=torch.float16, device="meta")
    with emulated_fp16():
        assert (x @ x.T).shape == (3, 3)


HALF = torch.float16
MISTAKES = {
    "mm, shapes": lambda: torch.ones(2, 3, dtype=HALF) @ torch.ones(2, 3, dtype=HALF),
    "mm, dtypes": lambda: torch.ones(2, 3, dtype=HALF) @ torch.ones(3, 2),
    "addmm, dtypes": lambda: torch.addmm(
        torch.ones(2), torch.ones(2, 3, dtype=HALF), torch.ones(3, 2, dtype=HALF)
    ),
    "addmm, bias": lambda: torch.addmm(
        torch.ones(2999, dtype=HALF), torch.ones(3, 2, dtype=HALF), torch.ones(2, 3000, dtype=HALF)
    ),
    "bmm, batch": lambda: torch.bmm(
        torch.ones(2, 3, 3, dtype=HALF), torch.ones(1, 3, 3, dtype=HALF)
    ),
    "conv1d, dtypes": lambda: F.conv1d(torch.ones(1, 1, 3, dtype=HALF), torch.ones(1, 1, 1)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_torch_still_says_what_is_wrong_with_the_operands(name):
    with pytest.raises(RuntimeError) as plain:
        MISTAKES[name]()
    with emulated_fp16(), pytest.raises(RuntimeError) as emulated:
        MISTAKES[name]()
    assert str(emulated.value) == str(plain.value)


def test_nothing_is_left_behind():
    assert not any(installed())
    with emulated_fp16():
        assert all(installed())
        with emulated_fp16():
            pass
        assert all(installed())
    assert not any(installed())
    with pytest.raises(ZeroDivisionError), emulated_fp16():
        raise ZeroDivisionError
    assert not any(installed())


def test_open_for_every_thread_until_the_last_leaves(products):
    def multiply() -> None:
        torch.ones(2, 2).half() @ torch.ones(2, 2).half()

    with emulated_fp16():
        thread = Thread(target=multiply)
        thread.start()
        thread.join()
    assert len(products) == 1
    multiply()
    assert len(products) == 1


@pytest.mark.filterwarnings("ignore:Please use the new API settings")  # torch 2.9's of its own
def test_refuses_fp32_products_in_bf16():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(GradlabError, match="set_float32_matmul_precision"), emulated_fp16():
            pass
    finally:
        torch.set_float32_matmul_precision(before)
    assert not any(installed())


@pytest.mark.parametrize("name", ["mm", "bmm", "addmm"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(40, 70, 30), (900, 200, 300), (200, 900, 300), (300, 200, 900)]
)  # whole, and cut along each dimension
def test_with_out_a_product_is_what_it_is_without(
    name: str, transposed: bool, m: int, k: int, n: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    lead = (3,) if name == "bmm" else ()
    left, right = (
        (300 * torch.randn(*lead, *shape, generator=draw)).half() for shape in ((m, k), (k, n))
    )
    bias = (torch.randn(n, generator=draw).half(),) if name == "addmm" else ()
    shape = (*lead, n, m) if transposed else (*lead, m, n)
    out = torch.empty(shape, dtype=torch.float16)
    out = out.mT if transposed else out
    with emulated_fp16():
        expected = getattr(torch, name)(*bias, left, right)
        assert getattr(torch, name)(*bias, left, right, out=out) is out
    assert torch.isinf(expected).any()
    assert torch.equal(out, expected)
