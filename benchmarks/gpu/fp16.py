"""FP16 emulated on a CPU against a GPU's own: products, and where a ramp first overflows.

    python -m benchmarks.gpu.fp16
    python -m benchmarks.gpu.fp16 --device cpu --tiny     # the emulation against itself

Products: the same random operands on both. `over` counts entries further from the exact result than
1 ulp + K · 2^-23 · Σ|a||b|, the bound that holds for one rounding of an fp32 sum in any order;
`inf` those infinite on one side only, though the exact result is further than that from 65520;
`differ` is the share that is not equal to the bit, which the order of sums decides.

Ramps: the LR stability test of nano, all three architectures from the same seeds, on both, so steep
(1e-3 a step) that they end in a minute.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import gradlab
from gradlab.fp16 import FP16_OVERFLOW

SHAPES = {
    "mm 512": (512, 512, 512),
    "mm long sum": (64, 16384, 64),
    "mm tall": (4096, 64, 128),
    "bmm scores": (48, 128, 32, 128),
    "bmm long": (8, 64, 4096, 64),
}
SCALES = {"plain": 1.0, "near overflow": 30.0, "cancelling": 8.0, "tiny": 2.0**-12}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="whose FP16 is compared")
    parser.add_argument("--steps", type=int, default=1500, help="cap of a ramp")
    parser.add_argument("--seeds", type=int, default=1, help="of the ramps")
    parser.add_argument("--out", type=Path, default=Path("gpu/fp16"), help="where ramps are kept")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, ramps of few steps")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    emulated = start_ramps("cpu", options.out / "emulated", options)
    products(torch.device(options.device), options.tiny)
    hardware = start_ramps(options.device, options.out / "hardware", options)
    for process in (emulated, hardware):
        said, _ = process.communicate()
        if process.returncode:
            sys.exit(f"a ramp failed:\n{said}")
    compare_ramps(options.out)


def products(device: torch.device, tiny: bool) -> None:
    print(f"{'product':14}{'operands':16}{'over':>6}{'inf':>6}{'differ':>9}{'worst':>8}")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    generator = torch.Generator().manual_seed(0)
    for name, shape in SHAPES.items():
        *batch, m, k, n = (min(size, 16) for size in shape) if tiny else shape
        for kind, scale in SCALES.items():
            a = scale * torch.randn(*batch, m, k, generator=generator)
            b = scale * torch.randn(*batch, k, n, generator=generator)
            if kind == "cancelling":
                a[..., 1::2] = a[..., ::2][..., : a[..., 1::2].shape[-1]]
                b[..., 1::2, :] = -b[..., ::2, :][..., : b[..., 1::2, :].shape[-2], :] * 1.001
            left, right = a.half(), b.half()
            with gradlab.emulated_fp16():
                emulated = left @ right
            if device.type == "cpu":
                with gradlab.emulated_fp16():
                    hardware = left @ right
            else:
                hardware = (left.to(device) @ right.to(device)).cpu()
            exact, bound = exact_and_bound(left, right)
            over = sum(out_of_bounds(out, exact, bound) for out in (emulated, hardware))
            far = (exact.abs() - FP16_OVERFLOW).abs() > bound
            infinite = (emulated.isinf() != hardware.isinf()) & far
            differ = (emulated != hardware) & ~(emulated.isnan() & hardware.isnan())
            both = emulated.isfinite() & hardware.isfinite()
            gap = ((emulated.double() - hardware.double()).abs() / ulp(exact))[both]
            print(
                f"{name:14}{kind:16}{over:6}{int(infinite.sum()):6}"
                f"{differ.double().mean().item():9.4f}{gap.max().item():6.0f} ulp",
                flush=True,
            )


def exact_and_bound(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The product in float64, and how far one rounding of an fp32 sum may be from it."""
    exact = a.double() @ b.double()
    magnitude = a.double().abs() @ b.double().abs()
    return exact, ulp(exact) + a.shape[-1] * 2.0**-23 * magnitude


def ulp(exact: Tensor) -> Tensor:
    """The distance of FP16's neighbours there."""
    _, exponent = torch.frexp(exact)
    return torch.ldexp(torch.ones_like(exact), exponent.clamp(min=-13) - 11)


def out_of_bounds(out: Tensor, exact: Tensor, bound: Tensor) -> int:
    finite = out.isfinite()
    return int(((out.double() - exact).abs() > bound)[finite].sum())


def start_ramps(device: str, out: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    steps = 4 if options.tiny else options.steps
    size = "--n-layers 1 --max-seq-len 8 --batch-size 2" if options.tiny else ""
    line = (
        f"run-stability --size nano {size} --lr-step 1e-3 --steps {steps} "
        f"--seeds {1 if options.tiny else options.seeds} --jobs {2 if options.tiny else 9} "
        f"--device {device} --resume"
    )
    command = [sys.executable, "-c", "from gradlab.cli.start import run; run()"]
    command += [*line.split(), "--out", str(out)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def compare_ramps(folder: Path) -> None:
    columns = ["arch", "seed", "reason", "step", "lr", "first_overflow"]
    for name in ("emulated", "hardware"):
        table = gradlab.load_study(folder / name).table
        print(f"\nramps, {name}:\n{table[columns].to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
