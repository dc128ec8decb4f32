"""The sentence for a package that gradlab needs only for some of what it does."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradlab.errors import GradlabError


@contextmanager
def needs_extra(package: str, purpose: str, extra: str) -> Iterator[None]:
    """Around an import: a missing package becomes a sentence with the command that installs it.

    Args:
        package: As it is imported.
        purpose: What needs it, the sentence's subject.
        extra: Of gradlab's, that installs it.
    """
    try:
        yield
    except ImportError as error:
        # A folder of that name in the working directory imports too, but holds nothing.
        if error.name != package:
            raise
        raise GradlabError(
            f"{purpose} needs the package {package}: pip install 'gradlab-diagnostics[{extra}]'."
        ) from None
