// Command lines of the programs: BUNDLE, options that take a value, and flags.
#pragma once

#include <xfer/policy.hpp>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

namespace xfer::programs {

struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Arguments {
 public:
  Arguments(int argc, char **argv, const std::set<std::string> &values, const std::set<std::string> &flags) {
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word.rfind("--", 0) != 0) {
        if (!bundle_.empty()) throw Usage("'" + word + "' is one argument too many.");
        bundle_ = word;
      } else if (flags.count(word) != 0) {
        given_[word] = "yes";
      } else if (values.count(word) == 0) {
        throw Usage("Unknown option " + word + ".");
      } else if (++i < argc) {
        given_[word] = argv[i];
      } else {
        throw Usage(word + " needs a value.");
      }
    }
  }

  bool has(const std::string &name) const { return given_.count(name) != 0; }
  std::string text(const std::string &name, const std::string &otherwise = "") const {
    return has(name) ? given_.at(name) : otherwise;
  }
  double number(const std::string &name, double otherwise, double least) const {
    if (!has(name)) return otherwise;
    char *end = nullptr;
    const double value = std::strtod(given_.at(name).c_str(), &end);
    if (*end != '\0' || end == given_.at(name).c_str() || !(value >= least) || value > 1e9) {
      throw Usage(name + " is '" + given_.at(name) + "', not a number that fits.");
    }
    return value;
  }
  std::string bundle() const {
    if (bundle_.empty()) throw Usage("Name the bundle's folder.");
    return bundle_;
  }
  std::string variant() const {
    if (!has("--variant")) throw Usage("Name a --variant, as onnx-int8.");
    return given_.at("--variant");
  }

  Policy open() const {
    Options options;
    options.threads = static_cast<int>(number("--threads", 1, 1));
    options.spin = has("--spin") ? 1 : 0;
    const std::string library = text("--library"), plugins = text("--plugins");
    options.library = library.empty() ? nullptr : library.c_str();
    options.plugin_dir = plugins.empty() ? nullptr : plugins.c_str();
    return {bundle(), variant(), options};
  }

 private:
  std::string bundle_;
  std::map<std::string, std::string> given_;
};

inline const std::set<std::string> COMMON_VALUES{"--variant", "--threads", "--library", "--plugins"};

#define XFER_COMMON_HELP                                                                            \
  "  --variant V      what to run: TARGET-PRECISION or TARGET-PRECISION@PLACE\n"                    \
  "  --threads N      threads inside an operation (1)\n"                                            \
  "  --spin           let idle threads spin between calls\n"                                        \
  "  --library FILE   the inference runtime's shared library\n"                                     \
  "  --plugins DIR    folder of the backends\n"

// Run BODY; an error is one line on stderr, and the exit status 2 for a wrong command line, else 1.
template <class Body>
int guarded_main(const char *name, int argc, char **argv, const char *help, Body &&body) {
  if (argc > 1 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) {
    std::fputs(help, stdout);
    return 0;
  }
  try {
    return body();
  } catch (const Usage &error) {
    std::fprintf(stderr, "%s: %s See %s --help.\n", name, error.what(), name);
    return 2;
  } catch (const Error &error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return error.code == XFER_USAGE ? 2 : 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace xfer::programs
