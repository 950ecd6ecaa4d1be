"""The bundle: its manifest, reading it, writing it, and the records of each variant on each machine."""
