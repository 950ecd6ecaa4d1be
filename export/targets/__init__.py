"""One file a target; see ``export/target.py`` for what a file defines."""
