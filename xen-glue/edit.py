# SPDX-License-Identifier: GPL-2.0-only
"""How one of Xen's own files is changed: the words to find, and the text to put there."""
from dataclasses import dataclass

ON = "#ifdef CONFIG_MEM_PAGING_RUST\n"
ELSE = "#else\n"
END = "#endif\n"


@dataclass(frozen=True)
class Edit:
    """One change."""
    file: str
    scope: str
    words: str
    how: str
    text: str


def include(file, words):
    return Edit(file, "", words, "after", f"{ON}#include <asm/mem_paging_rust.h>\n{END}")


def instead(file, scope, words, lines):
    """Replaces the line that contains these words by other lines."""
    return [Edit(file, scope, words, "before", ON + lines + ELSE), Edit(file, scope, words, "after", "#endif /* !MEM_PAGING_RUST */\n")]


def also(file, scope, words, how, lines):
    return Edit(file, scope, words, how, ON + lines + END)
