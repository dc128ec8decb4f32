from collections.abc import Iterator

import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def no_screen() -> Iterator[None]:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    yield
    plt.close("all")
