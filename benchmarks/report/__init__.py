"""The report: its data, what follows from it, and how it is drawn and written."""
