/// Runs the built app as its users do: a process with arguments, an exit code, and two streams.
#pragma once

#include "support/catch.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace test {

inline std::string file_text(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct run_result {
  int code = -1;   ///< exit code, -1 if a signal ended the process
  int signal = 0;  ///< that signal
  std::string out, err;
};

struct run_options {
  rlim_t file_limit = RLIM_INFINITY;  ///< bytes that a file may have: what a full disk looks like
  std::string out_file = {};          ///< where stdout goes instead of being kept
  int err_descriptor = -1;            ///< the same for stderr
  std::vector<int> closed = {};       ///< standard streams that are not there
};

/// A process that runs the app, with one thread unless the arguments say otherwise. Ended by force after two minutes.
class app_process {
 public:
  explicit app_process(std::vector<std::string> arguments, run_options const& options = {}) {
    std::string program = GPTQ_APP;
    std::vector<char*> argv{program.data()};
    for (auto& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    std::string const out = options.out_file.empty() ? (folder_ / "out").string() : options.out_file;
    std::string const err = (folder_ / "err").string();
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setenv("OMP_NUM_THREADS", "1", 1);
    if (options.file_limit != RLIM_INFINITY) {
      rlimit const limit{options.file_limit, options.file_limit};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    int const in_fd = ::open("/dev/null", O_RDONLY);
    int const out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT, 0666);
    int const err_fd =
        options.err_descriptor >= 0 ? options.err_descriptor : ::open(err.c_str(), O_WRONLY | O_CREAT, 0666);
    ::dup2(in_fd, 0);
    ::dup2(out_fd, 1);
    ::dup2(err_fd, 2);
    for (int const fd : {in_fd, out_fd, err_fd})
      if (fd > 2) ::close(fd);
    for (int const fd : options.closed) ::close(fd);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  app_process(app_process const&) = delete;
  app_process& operator=(app_process const&) = delete;
  ~app_process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void send(int signal) const { ::kill(pid_, signal); }

  /// Waits until stderr holds the text; false if the process ends first.
  [[nodiscard]] bool wait_for(std::string_view text) {
    while (file_text(folder_ / "err").find(text) == std::string::npos)
      if (ended(std::chrono::milliseconds(2))) return false;
    return true;
  }

  run_result finish() {
    auto const start = std::chrono::steady_clock::now();
    while (!ended(std::chrono::milliseconds(2)))
      if (std::chrono::steady_clock::now() - start > std::chrono::minutes(10)) send(SIGKILL);
    run_result r;
    r.code = WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
    r.signal = WIFSIGNALED(status_) ? WTERMSIG(status_) : 0;
    r.out = file_text(folder_ / "out");
    r.err = file_text(folder_ / "err");
    return r;
  }

 private:
  bool ended(std::chrono::milliseconds pause) {
    if (pid_ <= 0) return true;
    if (::waitpid(pid_, &status_, WNOHANG) == pid_) {
      pid_ = 0;
      return true;
    }
    std::this_thread::sleep_for(pause);
    return false;
  }

  temp_dir folder_;
  pid_t pid_ = -1;
  int status_ = 0;
};

inline run_result run_app(std::vector<std::string> arguments, run_options const& options = {}) {
  return app_process(std::move(arguments), options).finish();
}

/// A run that must succeed.
inline run_result run_well(std::vector<std::string> arguments) {
  run_result r = run_app(std::move(arguments));
  INFO(r.err);
  REQUIRE(r.code == 0);
  return r;
}

/// Checks an error as every one must be: its exit code, nothing on stdout, one line on stderr that names what is wrong.
inline void check_refused(run_result const& r, int code, std::initializer_list<std::string> names) {
  INFO("stderr: " << r.err);
  CHECK(r.signal == 0);
  CHECK(r.code == code);
  CHECK(r.out.empty());
  CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  CHECK(r.err.rfind("gptq: ", 0) == 0);
  for (auto const& name : names) CHECK_THAT(r.err, contains(name));
}

/// Names in a folder, sorted, hidden ones too.
inline std::vector<std::string> names_in(std::filesystem::path const& folder) {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace test
