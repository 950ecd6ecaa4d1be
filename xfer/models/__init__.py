"""The policy: a pretrained trunk, a head, and what turns a raw frame into the network's input."""
