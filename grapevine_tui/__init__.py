"""The terminal application over `grapevine_proto`: an app for people, JSON Lines for scripts."""

from grapevine_proto.version import __version__ as __version__
