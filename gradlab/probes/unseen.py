"""What a probe says that can see nothing in a model."""

import warnings

from gradlab.errors import GradlabWarning


class Unseen:
    """Says once that a whole step with a backward pass has shown nothing, if it was the first.

    Args:
        sentence: What to say.
    """

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._is_first = True

    def look(self, *, seen: bool) -> None:
        """A step with a backward pass has ended.

        Args:
            seen: Whether it showed something.
        """
        if self._is_first and not seen:
            warnings.warn(self._sentence, GradlabWarning, stacklevel=2)
        self._is_first = False
