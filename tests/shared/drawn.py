"""What is drawn on Axes, by colour."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex


def points(ax: Axes, color: str) -> np.ndarray:
    """x and y of the points of a scatter plot that are filled with a colour, a row a point."""
    found = [
        np.broadcast_to(collection.get_offsets(), (len(collection.get_offsets()), 2))[
            _filled(collection, color)
        ]
        for collection in ax.collections
        if isinstance(collection, PathCollection)
    ]
    return np.concatenate(found) if found else np.empty((0, 2))


def _filled(collection: PathCollection, color: str) -> np.ndarray:
    faces = [to_hex(face).upper() for face in collection.get_facecolor()]
    return np.resize([face == color.upper() for face in faces], len(collection.get_offsets()))


def marks(ax: Axes, color: str) -> list[Any]:
    """Lines of a colour that are markers only."""
    return [
        line
        for line in ax.lines
        if to_hex(line.get_color()).upper() == color.upper()
        and line.get_linestyle() == "None"
        and len(line.get_xdata())
    ]


def joined(ax: Axes, color: str) -> list[Any]:
    """Lines of a colour that join points."""
    return [
        line
        for line in ax.lines
        if to_hex(line.get_color()).upper() == color.upper() and line.get_linestyle() != "None"
    ]
