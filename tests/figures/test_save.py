import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gradlab.errors import GradlabError
from gradlab.figures.save import FORMATS, save
from gradlab.figures.style import figure_of, paper_axes

DRAW = """
import sys
import matplotlib
matplotlib.use("agg")
from gradlab.figures.save import save
from gradlab.figures.style import figure_of, paper_axes
ax = paper_axes()
ax.plot([1, 2, 3], [1, 4, 9], marker="o", label="λ")
ax.legend()
save(figure_of(ax), sys.argv[1], ("png", "pdf", "svg"))
"""


def drawing() -> Figure:
    ax = paper_axes()
    ax.plot([1, 2, 3], [1, 4, 9], label="λ")
    ax.set_xlabel("Parameters")
    return figure_of(ax)


@pytest.mark.long
def test_two_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    for name, hash_seed, zone in (("a", "1", "UTC"), ("b", "2", "Asia/Tokyo")):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone}
        subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / name)], env=env, check=True)
    for form in FORMATS:
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes(), form


def test_no_time_and_no_version_is_written(tmp_path: Path) -> None:
    for file in save(drawing(), tmp_path / "figure", FORMATS):
        content = file.read_bytes()
        for trace in (b"CreationDate", b"Matplotlib", b"tEXt", b"<dc:date>"):
            assert trace not in content, (file.suffix, trace)


def test_pdfs_embed_truetype_fonts(tmp_path: Path) -> None:
    (file,) = save(drawing(), tmp_path / "figure", ["pdf"])
    content = file.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_png_has_the_printed_size_in_300_dots_an_inch(tmp_path: Path) -> None:
    (file,) = save(drawing(), tmp_path / "figure", ["png"])
    width, height = (int.from_bytes(file.read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (990, 742)


def test_files_are_replaced_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    stem = tmp_path / "deep" / "figure"
    assert save(drawing(), stem) == [Path(f"{stem}.png"), Path(f"{stem}.pdf")]
    save(drawing(), stem)
    assert sorted(file.name for file in stem.parent.iterdir()) == ["figure.pdf", "figure.png"]


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(GradlabError, match="is a file, or below one"):
        save(drawing(), tmp_path / "taken" / "figure")
    with pytest.raises(GradlabError, match=r"unknown figure format 'pgn'.*did you mean 'png'"):
        save(drawing(), tmp_path / "figure", ["pgn"])
