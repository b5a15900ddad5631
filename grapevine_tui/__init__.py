"""The terminal application over `grapevine_proto`: an app for people, JSON Lines for scripts."""

from grapevine_tui import (
    early_signals as early_signals,  # takes signals: all that follows takes a while to load
)

# isort: split
from grapevine_tui import garbage_collection as garbage_collection

# isort: split
from grapevine_proto.version import __version__ as __version__
