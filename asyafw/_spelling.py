"""Names that were meant, for those that do not exist."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Ask for the most similar of `names`; give an empty text where none is similar."""
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else ""
