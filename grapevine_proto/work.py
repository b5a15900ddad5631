"""What work costs, in units of about a microsecond, counted and not measured.

The core has no clock, so that a node in virtual time and a real one come to the same verdicts: each step
that a peer can cause many of adds to a counter named `work` where it is done. `Overlay.work_units` is their
sum; `routing` charges what a message added to it to the peer that sent the message. Payloads are not
counted: a message holds at most `MAX_PAYLOADS_PER_MESSAGE`, which its token pays for.
"""

from __future__ import annotations

from typing import Final

STEP: Final = 1  # one lookup, one gap walked, one range compared
SIGNATURE: Final = 60  # one check
KIBIBYTE: Final = 2  # of content hashed or copied
"""Also of bodies served: what a peer makes us send."""
