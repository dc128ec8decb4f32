import runpy
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def test_the_documentations_pictures_are_drawn_from_its_tables(tmp_path: Path) -> None:
    runpy.run_path(str(IMAGES / "draw.py"))["draw"](tmp_path)
    drawn = {file.name for file in tmp_path.iterdir()}
    names = (
        "architectures",
        "blocks",
        "breaks_125M",
        "breaks_768",
        "breaks_nano",
        "gradients_125M",
        "gradients_d768",
        "league",
        "width_breaks",
        "width_differences",
    )
    assert drawn == {f"{name}.png" for name in names}
    assert drawn < {file.name for file in IMAGES.glob("*.png")}
