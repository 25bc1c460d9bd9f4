/// What the subcommands share: how each is added to the command line, exit codes, errors of usage.
#pragma once

#include <functional>
#include <stdexcept>

namespace CLI {
class App;
}

namespace app {

enum exit_code : int {
  success = 0,
  failure = 1,    ///< one line on stderr says what was wrong
  usage = 2,      ///< of the command line; the same
  fell_back = 3,  ///< the result is complete, but layers fell back and --allow-fallback was not given
};

/// An option, or a combination of options, that makes no sense: ends the program with exit code 2.
class usage_error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What main runs once the command line has been parsed; returns an exit code.
using action = std::function<int()>;

// Each in the file of its name. The subcommand that was asked for sets `run`.
void add_quantize(CLI::App& root, action& run);
void add_perplexity(CLI::App& root, action& run);
void add_generate(CLI::App& root, action& run);
void add_inspect(CLI::App& root, action& run);
void add_repack(CLI::App& root, action& run);
void add_tokenize(CLI::App& root, action& run);

}  // namespace app
