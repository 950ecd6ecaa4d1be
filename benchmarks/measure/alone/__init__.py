"""What is measured of one variant alone: where its time goes, and how it does for minutes; and of the machine alone.

profile.py   time per layer, from the library's own profiler
peak.py      the most multiply-accumulates in a second that this machine does
soak.py      one variant without a pause
"""
