"""Do the gates catch what goes wrong in practice? ``inject.py`` tries it out, ``faults.py`` has the list."""
