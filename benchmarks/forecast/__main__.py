"""`python -m benchmarks.forecast`: see the package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import benchmarks.forecast
from benchmarks.forecast.judge import judged, said_before
from benchmarks.forecast.record import RECORD, record_all
from benchmarks.forecast.signals import Watched, watched


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not options.recorded:
        record_all(options.folder, range(options.seeds), quick=options.quick)
    runs = [watched(file.parent) for file in sorted(options.folder.glob(f"*/{RECORD}"))]
    chosen_on = [run for run in runs if run.seed < options.held_out]
    if all(run.break_step is not None for run in chosen_on):
        raise SystemExit(f"no steady run of a seed before {options.held_out}: record some first.")
    others = [run for run in runs if run.seed >= options.held_out]
    print(f"thresholds from {_counted(chosen_on)}; tried on {_counted(others)}")
    table = judged(chosen_on, others)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    print("\nsteps left as the forecast said, so many steps before the break:")
    print(said_before(others, (150, 100, 50, 30, 10)).to_string(index=False))


def _counted(runs: Sequence[Watched]) -> str:
    steady = sum(run.break_step is None for run in runs)
    return f"{len(runs) - steady} breaks and {steady} steady runs"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=benchmarks.forecast.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=15, help="0 … N−1")
    parser.add_argument("--held-out", type=int, default=6, help="the first seed to try them on")
    parser.add_argument("--recorded", action="store_true", help="train nothing")
    parser.add_argument("--quick", action="store_true", help="in a minute, to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.held_out = 2, 1
    return options


if __name__ == "__main__":
    main()
