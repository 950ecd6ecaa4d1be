"""The proof: how fast each variant of a bundle is here, against eager, and which one to take.

``xfer bench`` is ``command.py``; ``xfer recommend`` is ``recommend.py``. Importing this package imports no
library; plots and statistics come from the extra ``bench``.
"""
