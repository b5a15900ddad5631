"""The terminal application over `grapevine_proto`: an app for people, JSON Lines for scripts."""

__version__ = "0.1.0"
