"""The version of the library and of the application, in its one place."""

__version__ = "0.1.0"
