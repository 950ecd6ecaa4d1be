"""What ``lerobot.py`` is made of: files that LeRobot 0.4 to 0.6 saves with a trained policy, read without LeRobot.

files.py       where they are, and what is in them
config.py      config.json of an ACT, and what of it is not taken
processors.py  LeRobot's pre- and post-processor as names and statistics
act.py         ACT, the network
module.py      camera and joints in, chunk of actions out: statistics and network in one graph
"""
