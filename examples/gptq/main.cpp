/// gptq: the library as a program. One file for each subcommand; here are the command line and the ends of all errors.
#include "app.hpp"
#include "console.hpp"
#include "interrupt.hpp"
#include "remedy.hpp"

#include <gptq/core/error.hpp>
#include <gptq/version.hpp>

#include <CLI/CLI.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <system_error>

namespace {

/// Where a standard stream is closed, the next file to be opened would get its number, and what is printed with it.
void fill_standard_streams() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})  // the lowest number that is free is the one opened
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY));
}

int fail(app::exit_code code, std::string const& text) {
  app::say(text);
  return code;
}

std::string help_hint(CLI::App const& root) {
  auto const commands = root.get_subcommands();
  return " (see gptq " + (commands.empty() ? "" : commands.front()->get_name() + " ") + "--help)";
}

int run(int argc, char** argv) {
  CLI::App root{"GPTQ quantization of language models to 2, 3, 4 and 8 bits", "gptq"};
  root.set_version_flag("--version", "gptq " GPTQ_VERSION);
  root.require_subcommand(1);
  app::action action;
  app::add_quantize(root, action);
  app::add_perplexity(root, action);
  app::add_generate(root, action);
  app::add_inspect(root, action);
  app::add_repack(root, action);
  app::add_tokenize(root, action);
  try {
    root.parse(argc, argv);
    return action();
  } catch (CLI::ParseError const& e) {
    if (e.get_exit_code() == 0) return root.exit(e);  // help or version, on stdout
    if (root.get_subcommands().empty() && argc > 1 && argv[1][0] != '-')
      return fail(app::usage, std::string(argv[1]) + " is no subcommand" + help_hint(root));
    return fail(app::usage, e.what() + help_hint(root));
  } catch (app::usage_error const& e) {
    return fail(app::usage, e.what() + help_hint(root));
  }
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_streams();
  // Failed writes are errors with a message and a clean-up, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  int code = app::failure;
  try {
    code = run(argc, argv);
  } catch (app::interrupted const& e) {
    app::say(e.what());
    std::signal(e.signal(), SIG_DFL);
    std::raise(e.signal());  // so that a shell sees what ended the program
  } catch (std::bad_alloc const&) {
    app::say("out of memory");
  } catch (gptq::error const& e) {
    app::say(app::with_options(e.what(), e.change()));
  } catch (std::exception const& e) {
    app::say(e.what());
  }
  errno = 0;
  bool const written = std::cout.flush() && std::fflush(stdout) == 0 && !std::ferror(stdout);
  if (!written && code == app::success)
    return fail(app::failure,
                "can't write to standard output: " + std::generic_category().message(errno ? errno : EIO));
  return code;
}
