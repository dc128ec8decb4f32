"""Draw the pictures of the documentation whose tables are in docs/studies, and the layers.

The others need runs; docs/gallery.md has the command of each.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from gradlab.analyses.stability_table import read_stability
from gradlab.figures.blocks import block_panels
from gradlab.figures.differences import lr_against_baseline
from gradlab.figures.gradients import gradient_panels
from gradlab.figures.league import league_panels
from gradlab.figures.save import save
from gradlab.figures.stability import lr_at_break
from gradlab.figures.style import LOOKS, figure_of
from gradlab.models.config import ModelConfig
from gradlab.models.presets import ARCHITECTURES, model_config

IMAGES = Path(__file__).parent
STUDIES = IMAGES.parent / "studies"
LAYERS = ("post-ln", "pre-ln", "normformer-resscale")
OTHERS = [*ARCHITECTURES][5:]


def layers(names: Iterable[str]) -> dict[str, ModelConfig]:
    """Models by their titles."""
    return {LOOKS[arch].label: model_config(arch, "125M") for arch in names}


def league() -> Figure:
    """The league, from its tables."""
    names = ("league", "differences", "first_overflows")
    summary, differences, sites = (pd.read_csv(STUDIES / "league" / f"{n}.csv") for n in names)
    return league_panels(summary, differences, sites)


def draw(out: Path) -> None:
    """Write the pictures into a folder."""
    mpl.use("agg")
    narrow = read_stability(STUDIES / "width" / "stability.csv")
    at_768 = read_stability(STUDIES / "width-768" / "stability.csv")
    same = at_768[at_768["arch"].isin(narrow["arch"])]
    width = pd.concat([narrow, same], ignore_index=True)
    nano = read_stability(STUDIES / "claims" / "stability" / "stability.csv")
    at_768_gradients = pd.read_csv(STUDIES / "claims-d768" / "gradients" / "gradients.csv")
    card = read_stability(STUDIES / "125M" / "stability.csv")
    figures = {
        "width_breaks": figure_of(lr_at_break(width)),
        "width_differences": figure_of(lr_against_baseline(width)),
        "breaks_768": figure_of(lr_at_break(at_768)),
        "breaks_125M": figure_of(lr_at_break(card)),
        "gradients_125M": gradient_panels(
            pd.read_csv(STUDIES / "125M-gradients" / "gradients.csv")
        ),
        "gradients_d768": gradient_panels(at_768_gradients[at_768_gradients["arch"] != "post-ln"]),
        "breaks_nano": figure_of(lr_at_break(nano)),
        "league": league(),
        "blocks": block_panels(layers(LAYERS)),
        "architectures": block_panels(layers(OTHERS)),
    }
    for name, figure in figures.items():
        save(figure, out / name, ["png"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    draw(parser.parse_args().out)
