"""The page of a run of 100,000 steps: how large it is, and how soon a browser shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import WITH_A_BROWSER, Browser
from made_up_runs import write_rows

import gradlab
from gradlab.runs.writer import RunWriter

pytestmark = [*WITH_A_BROWSER, pytest.mark.long]

STEPS, EVERY, LAYERS, HEADS = 100_000, 10, 12, 12
OPS = ("q", "k", "v", "out", "fc1", "fc2")
SPIKE, SKIPPED = 61_803, range(997, STEPS, 997)


def places(looks: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """A row for each step, layer and name: these three columns and an op."""
    layers = np.repeat(np.arange(LAYERS), len(names)).tolist()
    return {
        "step": np.repeat(looks, LAYERS * len(names)),
        "layer": layers * len(looks),
        "op": [*names] * (LAYERS * len(looks)),
        "name": [f"blocks.{layer}.{op}" for layer in range(LAYERS) for op in names] * len(looks),
    }


def write_long_run(folder: Path) -> Path:
    """A run of 125M's shape in somebody's own loop: every table, with a spike and 100 overflows."""
    tables = ["steps", "grad_norms", "headroom", "optimizer", "scores", "overflows"]
    writer = RunWriter(folder, None, {"model": "GPT2", "tables": tables})
    random = np.random.default_rng(0)
    steps = np.arange(STEPS)
    loss = 3 + 7 * np.exp(-steps / 5000) + 0.05 * random.standard_normal(STEPS)
    loss[SPIKE] = 1000.0
    skipped = np.isin(steps, SKIPPED)
    scale = 2.0 ** (16 - np.arange(STEPS) // 997 % 5)
    rate = 1e-3 * np.minimum(1, steps / 2000)
    course = {"step": steps, "update": steps, "lr": rate, "loss": loss, "loss_scale": scale}
    course |= {"grad_norm": loss, "tokens": steps, "seconds": steps.astype(float)}
    write_rows(writer, "steps", **course, skipped=skipped)
    where = {"step": SKIPPED, "site": "blocks.3.q gradient", "op": "q", "layer": 3}
    write_rows(writer, "overflows", **where, direction="backward", skipped=True)
    for start in range(0, STEPS, 10_000):
        looks = range(start, start + 10_000, EVERY)
        at = places(looks, OPS)
        names, rows = at.pop("name"), len(at["step"])
        size = 10 ** random.normal(-2, 0.3, rows)
        norms = dict.fromkeys(("grad_l1", "grad_l2", "grad_max_abs"), size)
        write_rows(writer, "grad_norms", **at, param=names, **norms)
        weights = {"param_rms": size, "update_rms": size**2}
        write_rows(writer, "optimizer", **at, param=names, **weights)
        bits = {"max_abs": size, "headroom_bits": 8 + random.standard_normal(rows)}
        write_rows(writer, "headroom", **at, site=names, underflow_frac=None, **bits)
        at = places(looks, [str(head) for head in range(HEADS)])
        heads = np.asarray(at.pop("op")).astype(int)
        size = 10 ** random.normal(1, 0.3, len(heads))
        at["name"] = [name.rpartition(".")[0] for name in at["name"]]
        site = {"site": at.pop("name"), "head": heads, "max": size, "max_abs": size}
        write_rows(writer, "scores", **at, **site)
    writer.finish("finished")
    return folder


def test_it_is_small_and_open_within_three_seconds(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    gradlab.report(write_long_run(tmp_path / "run"), out=page)
    megabytes = page.stat().st_size / 1e6
    browser.open(page, width=1400, scheme="light")
    opened, drawn = browser.evaluate(
        """new Promise((then) => {
          document.querySelector(".curves").scrollIntoView();
          const began = performance.now();
          const look = () => document.querySelectorAll(".curves canvas").length < 9
            ? requestAnimationFrame(look)
            : requestAnimationFrame(() => then([
                performance.getEntriesByType("navigation")[0].loadEventEnd,
                performance.now() - began]));
          look();
        })""",
    )
    print(f"{megabytes:.2f} MB, opened in {opened:.0f} ms, curves drawn in {drawn:.0f} ms more")
    assert megabytes < 5
    assert opened + drawn < 3000
    numbers = browser.evaluate(
        """(() => { const run = JSON.parse(document.getElementById("curves0").textContent);
                    return [run.panels[0].lines[0].values, run.events[0].name]; })()"""
    )
    assert max(numbers[0]) == 1000  # the spike
    assert numbers[1] == f"skipped ({len(SKIPPED)})"
