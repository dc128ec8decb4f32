"""`gradlab league`: every architecture side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study, show_result
from gradlab.errors import GradlabError
from gradlab.studies.league import League

if TYPE_CHECKING:
    from gradlab.runs.study import StudyRecord, StudySet

EXAMPLES = """\
Examples:

gradlab league

gradlab league --qk-norm heads --beside studies/league-nano --out studies/qk

gradlab league --width 768 --arch pre-ln --arch normformer --resume"""


class LeaguePlace(Place):
    """Where a league is made, and what it is shown beside."""

    beside: Path | None = None
    """Another league's folder: how each architecture differs from itself there, and whether the
    order is the same."""


def league(league: League, place: LeaguePlace) -> None:
    """Compare architectures by what they survive, learn and cost.

    Three studies are made one after another, each in a folder of its own and as its own command
    makes it: gradients and FP16 headroom at one rate (grad-norms), the highest constant learning
    rate beside the ramp's break (limit), and the best learning rate at equal time (lr-search): that
    of Pre-LN's steps, which are timed even if it is not among the architectures.

    The result is a row an architecture: the learning rate at the ramp's break, the highest constant
    one, the best one and the validation loss at it, LR sensitivity (the loss over the rates tried,
    less the lowest), the gradients' mismatch, the least headroom, the first overflow, and the time
    of a step; with 95 % intervals over seeds, the differences from Pre-LN, and a figure of all.

    With all architectures it takes some 700 runs and an hour on two cores. Ctrl-C stops, and leaves
    what is known; the same command with --resume goes on, with more architectures and seeds too.
    """
    other = None if place.beside is None else _read_league(place.beside)

    def show(record: "StudyRecord", figures: bool) -> None:
        from gradlab.analyses.league_words import beside_sentences
        from gradlab.runs.study import StudySet

        show_result(record, figures)
        if other is not None and isinstance(record, StudySet):
            for sentence in beside_sentences(record, other):
                output().print(sentence)

    make_study(league, place, show)


def _read_league(folder: Path) -> "StudySet":
    """Read before anything is trained: a mistake in its name is said at once."""
    from gradlab.analyses.league import is_league
    from gradlab.runs.study import StudySet, load_study

    if not folder.exists():
        raise GradlabError(f"there is no league to show it beside: {folder} does not exist.")
    found = load_study(folder)
    if not isinstance(found, StudySet) or not is_league(found):
        raise GradlabError(f"{folder} holds no league: make one with gradlab league.")
    return found
