"""When a tool has named a cause: one rule for all tools.

A tool makes claims: the statements that it prints, or what its charts show. A claim says that
something is wrong if it has one of the words below and does not deny it; one that the tool makes of
the healthy twin as well says nothing of the case. The cause is *named* if such a claim holds the
name of the culprit (a module, a parameter or a buffer; for a cause outside the model, words that
say which it is), or the file and line that is to blame; a claim that lists more than half of the
model's parameters singles out none. It is *noticed* if there is a claim that something is wrong,
but no name, and *silent* otherwise. A claim of that kind about the twin is a false alarm. The
training was *disturbed* if a weight or buffer, of the case or of its twin, differs afterwards by a
bit from what the bare run leaves, or if an error came up. An error by which a tool reports, as
`detect_anomaly` does, is a claim; of the twin it is a disturbance as well.
"""

import re
from collections.abc import Collection, Iterable, Sequence

from benchmarks.diagnosis.case import Case

WRONG = re.compile(
    r"not finite|non-?finite|\bnans?\b|\binf(s|inite|inity)?\b|overflow|underflow|\bzeros?\b"
    r"|\bnever\b|\bskipped\b|explod|vanish|\bdead\b|between (micro-batches|passes)|no gradient"
    r"|not trained|crossed|spike|\b\w*error\b",
    re.IGNORECASE,
)
DENIED = re.compile(r"\bNone: |\bstayed finite\b|\bwere all finite\b")


def says_wrong(claim: str) -> bool:
    """Whether a claim says that something is wrong."""
    return bool(WRONG.search(claim)) and not DENIED.search(claim)


def outcome(
    case: Case, claims: Iterable[str], claims_of_twin: Collection[str], parameters: Sequence[str]
) -> str:
    """`named`, `noticed` or `silent`."""
    wrong = [claim for claim in claims if says_wrong(claim) and claim not in claims_of_twin]
    if any(names_culprit(case, claim, parameters) for claim in wrong):
        return "named"
    return "noticed" if wrong else "silent"


def names_culprit(case: Case, claim: str, parameters: Sequence[str]) -> bool:
    """Whether a claim holds the culprit's name, or its file and line, and not everybody's."""
    listed = sum(holds_name(claim, parameter) for parameter in parameters)
    if listed > max(1, len(parameters) / 2):
        return False
    return (
        any(holds_name(claim, name) for name in case.names)
        or any(re.search(phrase, claim, re.IGNORECASE) for phrase in case.phrases)
        or any(holds_line(claim, *line) for line in case.culprit_lines())
    )


def holds_name(claim: str, name: str) -> bool:
    """Whether a dotted name stands in a claim, itself or with its weight or bias."""
    return bool(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.(?!weight\b|bias\b)\w)", claim))


def holds_line(claim: str, file: str, line: int) -> bool:
    """Whether a file and line stands there, as `file.py:3` or as in a traceback."""
    return bool(re.search(rf'{re.escape(file)}(:|", line ){line}\b', claim))
