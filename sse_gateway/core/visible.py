"""Write out characters that a person would not see, so that a text cannot pretend to be another.

Who approves a command must see what will run. Control characters drive terminals, bidirectional ones reorder
what is read, and others take no space at all. Logs, `tail` and `ask` show text through `visible`; the console
does the same.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_IDEOGRAPHIC_SPACE = "\u3000"
_EMOJI_PRESENTATION = "\ufe0f"

# Letters, marks and symbols by category that show nothing: fillers, joiners, variation selectors.
_BLANK_RANGES = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
MOST_MARKS = 4  # more combining marks on one letter strike out the lines around it
_PLAIN = re.compile(r"[\x20-\x7e]*")


def is_hidden(character: str) -> bool:
    """Tell whether a character is not to be seen on a screen, or looks like a space and is none."""
    category = unicodedata.category(character)
    if category in _HIDDEN_CATEGORIES:
        return True
    if category == "Zs":
        return character not in (" ", _IDEOGRAPHIC_SPACE)
    code = ord(character)
    return any(low <= code <= high for low, high in _BLANK_RANGES)


def escape(character: str) -> str:
    r"""Return the escape of one character as Python writes it: `\n`, `\x1b`, `\u202e`, `\U000e0041`."""
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    if short:
        return short
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str, *, keep: str = "", before: str = "", after: str = "") -> str:
    """Return `text` with every hidden character escaped; those in `keep` stay as they are.

    `before` and `after` are put around each escape, so that a terminal can show it in another colour than a
    backslash the text itself holds. One presentation selector behind a symbol stays: without it half of all
    emoji look broken.
    """
    if _PLAIN.fullmatch(text):
        return text
    shown = []
    previous = ""
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character).startswith("M") else 0
        after_symbol = bool(previous) and unicodedata.category(previous) == "So"
        presentation = after_symbol and character == _EMOJI_PRESENTATION
        if presentation or character in keep or (marks <= MOST_MARKS and not is_hidden(character)):
            shown.append(character)
        else:
            shown.append(f"{before}{escape(character)}{after}")
        previous = character
    return "".join(shown)
