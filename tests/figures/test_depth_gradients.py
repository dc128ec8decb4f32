import pandas as pd
from matplotlib import pyplot as plt

from gradlab.figures.depth_scan import gradients_by_depth


def test_of_the_first_warm_up_the_first_seed_that_it_has() -> None:
    row = {"arch": "pre-ln", "depth": 2, "when": "start", "layer": 0, "size": 1.0}
    rows = [{**row, "warmup": 0, "seed": 1}, {**row, "warmup": 50, "seed": 0}]
    figure = gradients_by_depth(pd.DataFrame(rows))
    assert figure.axes[0].get_title(loc="left") == "Pre-LN, seed 1"
    assert figure.get_suptitle() == "0 steps of warm-up"
    plt.close(figure)
