"""Repair of int8 variants: ``search.py`` finds the layers that must stay in float, ``bundle.py`` rebuilds them."""
