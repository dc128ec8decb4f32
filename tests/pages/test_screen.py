import re
from io import StringIO

import pytest
from rich.text import Text

from gradlab.pages.screen import Screen, Words, complain, results_table

ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
NASTY = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07name", "\x9b31m", "\u202eback", "\r\x00b"]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_acts_on_the_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = results_table()
    table.add_column(Words(name))
    table.add_row(Text(name))
    file = StringIO()
    screen = Screen(file=file, width=60)
    for shown in (name, Text(name), Words(name), table):
        screen.print(shown)
    complain(f"there is no run {name}")
    for text in (file.getvalue(), capsys.readouterr().err):
        assert not ACTS.search(text)


def test_a_terminal_still_has_its_colours() -> None:
    file = StringIO()
    Screen(file=file, force_terminal=True, color_system="standard").print(Text("x", style="red"))
    assert file.getvalue() == "\x1b[31mx\x1b[0m\n"


def test_brackets_and_names_of_emoji_are_text() -> None:
    file = StringIO()
    Screen(file=file).print("[bold]a[/bold] :smile: 12")
    assert file.getvalue() == "[bold]a[/bold] :smile: 12\n"
