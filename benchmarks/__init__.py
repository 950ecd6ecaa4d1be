"""The proof: how fast each variant of a bundle is here, against eager, and which one to take.

Importing this package imports no library; plots and statistics come from the extra ``bench``.
"""
