"""``python -m grapevine_tui``, the same as ``grapevine-tui``."""

from grapevine_tui.cli.main import main

if __name__ == "__main__":
    main()
