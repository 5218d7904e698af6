"""The operator's terminal: a command shows a text of the attacker's choice.

The text must not control the terminal or deceive the reader.
"""

from __future__ import annotations

from tests.attacks.corpus import Family

FAMILY = Family("terminal")

for _name, _text, _about in (
    ("a cleared screen", "\x1b[2J\x1b[H", "a sequence that clears the screen"),
    ("a title", "\x1b]0;mine\x07", "a sequence that renames the window"),
    (
        "a link",
        "\x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\",
        "a sequence that makes a link",
    ),
    ("a sequence of eight bits", "\x9b2J", "the same introduced by one character, U+009B"),
    (
        "a line over the line",
        "refused\raccepted",
        "a carriage return, and other words over those before",
    ),
    ("a second line", "refused\n2 accepted", "a line feed, and a line that nobody wrote"),
    ("a line separator", "refused\u2028accepted", "a line that only some terminals begin"),
    (
        "writing from the right",
        "\u202egnol-eb-ot",
        "characters that turn the direction of writing around",
    ),
    (
        "letters of nothing",
        "order\u3164",
        "a letter that is shown as nothing: another bot with the same name",
    ),
    ("a tower of marks", "o" + "\u0301" * 50, "marks that paint over the lines above"),
    (
        "backspaces",
        "stranger" + "\b" * 8 + "operator",
        "characters that delete the text before them",
    ),
    ("a hidden word", "order\x1b[8m evil\x1b[0m", "a sequence that hides the text after it"),
    ("a deletion", "order\x7f\x7f", "a character that JSON leaves as it is, and a terminal obeys"),
    ("half a character", "\ud800", "a surrogate, on which writing fails"),
):
    FAMILY.shown(_name, _about, _text)
