// Just enough of a test framework: a failed check says where and ends the program.
#pragma once

#include <xfer/xfer.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
      std::fprintf(stderr, "last error: %s\n", xfer_error());                            \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

// CALL fails with CODE, and says something that contains TEXT.
#define CHECK_REFUSED(code, text, ...)                                           \
  do {                                                                           \
    CHECK((__VA_ARGS__) == (code));                                                    \
    CHECK(std::string(xfer_error()).find(text) != std::string::npos);            \
  } while (false)
