"""Corpus of hostile text that might control a terminal, shared by several tests."""

from __future__ import annotations

_SEQUENCES = (
    "\x1b]0;x\x07",
    "\x1b]2;PWNED\x1b\\",
    "\x1b]52;c;UFdORUQ=\x07",
    "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "\x1b]1337;File=inline=1:AAAA\x07",
    "\x1bP+q544e\x1b\\",
    "\x1bPq#0;2;0;0;0\x1b\\",
    "\x1b_Gf=24,s=1,v=1;AAAA\x1b\\",
    "\x1b[2J\x1b[H",
    "\x1b[31;7mred",
    "\x1b[?1049l",
    "\x1b[?25l",
    "\x1b[6n",
    "\x1b[c",
    "\x1b[21t",
    "\x1b[200~",
    "\x1bc",
    "\x1b(0lqk",
    "\x1b#8",
    "\x1b[8;1;1t",
    "\x9b31m",
    "\x9d0;x\x9c",
    "\x90q\x9c",
    "\x1b",
    "\x1b[",
    "\x1b]",
    "\x0e\x0f",
    "\x08\x08\x08\x08overwritten",
    "line\rover",
    "one\ntwo\r\nthree\x0bfour\x0cfive\x85six",
    "tab\tbed",
    "null\x00byte",
    "\x7f\x7f\x7f",
)
_MARKUP = (
    "[bold]",
    "[/nope]",
    "[/]",
    "[@click=app.quit]x[/]",
    "[@click=app.bell()]x[/]",
    "[link=http://evil.example]x[/link]",
    "[red on blue]x",
    "[[[[",
    "]]]]",
    "\\[bold]",
    "[$error]x[/$error]",
    "$primary {x} %s %(x)s {0.__class__}",
    "&amp;<script>alert(1)</script>",
    ":smile: :vine:",
)
_UNICODE = (
    "\u202eevil\u202c",
    "\u2066a\u2067b\u2068c\u2069",
    "\u200e\u200f\u061c",
    "zero\u200bwidth\u2060joined\ufeff",
    "soft\u00adhyphen",
    "line\u2028paragraph\u2029end",
    "\ue000\uf8ff\U000f0000\U0010fffd",
    "\ufdd0\uffff\U0001fffe",
    "\u0378\U000e0080",
    "\U000e0041\U000e0042",
    "\ufff9a\ufffab\ufffb",
    "a" + "\u0301" * 500,
    "\u0489" * 100,
    "\u1100" + "\u1161" * 200 + "\u11a8" * 200,
    "\u3164\u115f\uffa0\u2800",
    "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪",
    "日本語" * 100,
    "שלום \u202eשלום",
    "مرحبا",
    "ｆｕｌｌ",
    "𝕱𝖗𝖆𝖐𝖙𝖚𝖗",
    "\u00a0\u2003\u3000\u1680",
    "x" * 5000,
    "",
    " ",
)
_CONTROLS = tuple(f"c{code:02x}{chr(code)}]0;x" for code in (*range(0x20), *range(0x7F, 0xA0)))
_CUT = tuple(  # every prefix of a long sequence, followed by another sequence
    "\x1b]52;c;UFdORUQ=\x07\x1b[31m"[:size] + "\x1b[2J" for size in range(1, 24)
)
_WRAPPED = tuple(
    f"{before}{each}"
    for before in ("[bold]", "日", "\x1b[", "e\u0301", "\\")
    for each in _SEQUENCES
)

HOSTILE: tuple[str, ...] = tuple(
    dict.fromkeys((*_SEQUENCES, *_MARKUP, *_UNICODE, *_CONTROLS, *_CUT, *_WRAPPED))
)
HOSTILE_BYTES: tuple[bytes, ...] = (
    *(each.encode() for each in HOSTILE),
    b"\xff\xfe\x1b[31m",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xc0\x9b31m",
    bytes(range(256)),
)
