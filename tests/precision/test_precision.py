import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlab.config import PrecisionConfig
from gradlab.precision.contractions import kernels
from gradlab.precision.device_facts import CUDA_FLAGS, device_facts
from gradlab.precision.precision import Precision, resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HALF = {"fp16", "fp16-pure"}


def precision(name: str, device: torch.device = CPU, **settings: float) -> Precision:
    return resolve(PrecisionConfig(name=name, **settings), device)


def emulating() -> bool:
    first, _ = kernels()[0]
    return torch._C._dispatch_has_kernel_for_dispatch_key(first.name(), "BackendSelect")


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize(
    ("name", "weights", "products", "scaled"),
    [
        ("fp32", torch.float32, torch.float32, False),
        ("bf16", torch.float32, torch.bfloat16, False),
        ("fp16", torch.float32, torch.float16, True),
        ("fp16-pure", torch.float16, torch.float16, True),
    ],
)
def test_table_of_dtypes(name, weights, products, scaled, device):
    resolved = precision(name, device)
    assert resolved.weight_dtype is weights
    assert resolved.product_dtype is products
    assert resolved.loss_scaling is scaled
    assert resolved.device == device


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp16-pure"])
def test_products_under_autocast_have_the_product_dtype(name):
    resolved = precision(name)
    x, weight = (torch.ones(3, 3, dtype=resolved.weight_dtype) for _ in range(2))
    with resolved.arithmetic(), resolved.autocast():
        assert F.linear(x, weight).dtype is resolved.product_dtype
        assert (x @ weight).dtype is resolved.product_dtype
        # fp16-pure needs no autocast, and a cast cache would hold its weights twice.
        assert torch.is_autocast_enabled("cpu") is (name in {"bf16", "fp16"})
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp16-pure"])
def test_fp16_on_a_cpu_is_emulated_and_nothing_else(name):
    with precision(name).arithmetic():
        assert emulating() is (name in HALF)
    assert not emulating()
    with precision(name, CUDA).arithmetic():
        assert not emulating()


def test_fp16_products_overflow_and_round_as_on_a_tensor_core():
    resolved = precision("fp16")
    x = torch.tensor([[256.0, 16.0]])
    with resolved.arithmetic(), resolved.autocast():
        assert (x @ x.T).item() == torch.inf  # 65792
        # 1 + 2^-11 is no fp16 number: the operand is rounded before it is multiplied.
        assert (torch.tensor([[1 + 2.0**-12]]) @ torch.tensor([[1024.0]])).item() == 1024


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp16-pure"])
@pytest.mark.parametrize("found", [True, False])
def test_cuda_multiplies_as_named_and_settings_come_back(name, found):
    matmul = torch.backends.cuda.matmul
    before = {flag: getattr(matmul, flag) for flag in (*CUDA_FLAGS, "fp32_precision")}
    given = dict.fromkeys(CUDA_FLAGS, found) | {"fp32_precision": "tf32" if found else "ieee"}
    try:
        for flag, value in given.items():
            setattr(matmul, flag, value)
        with precision(name, CUDA).arithmetic():
            assert not any(getattr(matmul, flag) for flag in CUDA_FLAGS)
            assert matmul.fp32_precision == "ieee"
        assert {flag: getattr(matmul, flag) for flag in given} == given
    finally:
        for flag, value in before.items():
            setattr(matmul, flag, value)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction_split_k"),
    reason="this torch has no setting for split-K",
)
def test_cuda_setting_of_split_k_is_left_alone():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction
    try:
        matmul.allow_fp16_reduced_precision_reduction = (False, False)
        with precision("fp16", CUDA).arithmetic():
            assert not matmul.allow_fp16_reduced_precision_reduction_split_k
        assert not matmul.allow_fp16_reduced_precision_reduction_split_k
    finally:
        matmul.allow_fp16_reduced_precision_reduction = before


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp16-pure"])
def test_grad_scaler_is_as_configured(name):
    settings = {
        "initial_loss_scale": 128.0,
        "growth_factor": 4.0,
        "backoff_factor": 0.25,
        "growth_interval": 3,
    }
    scaler = precision(name, **settings).grad_scaler()
    assert scaler.is_enabled() is (name in HALF)
    if name in HALF:
        assert scaler.get_scale() == 128
        assert scaler.get_growth_factor() == 4
        assert scaler.get_backoff_factor() == 0.25
        assert scaler.get_growth_interval() == 3
    else:
        assert scaler.scale(torch.tensor(3.0)).item() == 3


def test_overflow_skips_the_fused_step_and_halves_the_scale():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    resolved = precision("fp16", initial_loss_scale=2.0**15)
    scaler = resolved.grad_scaler()
    weights = [model.weight.detach().clone()]
    for size in (1000.0, 1.0):  # 1000 · 2^15 does not fit, 2^15 does
        optimizer.zero_grad()
        with resolved.arithmetic():
            with resolved.autocast():
                loss = model(torch.full((1, 2), size)).float().sum()
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(model.weight.detach().clone())
        assert scaler.get_scale() == 2.0**14
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert optimizer.state[model.weight]["step"] == 1


@pytest.mark.gpu
def test_fp16_on_cuda_is_the_hardware_s():
    resolved = precision("fp16", CUDA)
    x = torch.full((64, 64), 2048.0, device=CUDA)
    x[:, 1:] = 1
    with resolved.arithmetic(), resolved.autocast():
        assert not emulating()
        y = x @ torch.ones(64, 64, device=CUDA)
    assert y.dtype is torch.float16
    assert (y == 2112).all()  # 2048 + 63 is a tie that rounds to 2112; fp16 sums stay at 2048


@pytest.mark.gpu
def test_fp32_on_cuda_keeps_its_bits():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    x = torch.full((256, 256), 1 + 2.0**-20, device=CUDA)
    try:
        matmul.fp32_precision = "tf32"
        with precision("fp32", CUDA).arithmetic():
            y = x @ torch.eye(256, device=CUDA)
    finally:
        matmul.fp32_precision = before
    assert torch.equal(y, x)  # TF32 has 10 bits


@pytest.mark.gpu
def test_a_record_says_how_cuda_multiplies():
    with precision("fp32", CUDA).arithmetic():
        facts = device_facts(CUDA)
    assert facts["matmul"] == dict.fromkeys(CUDA_FLAGS, False) | {"fp32_precision": "ieee"}
    assert facts["name"] == torch.cuda.get_device_name()
    assert facts["capability"].replace(".", "").isdigit()
    assert facts["cuda"] == torch.version.cuda
