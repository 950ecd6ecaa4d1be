"""What is measured beside a policy's own variants in Python: the same in C++, and the whole backbone."""
