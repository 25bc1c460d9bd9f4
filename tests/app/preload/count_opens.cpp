// Loaded before the C library of a program under test: notes the path of every file that it opens, a line each, in the file
// that $GPTQ_OPENED names.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <cstring>

namespace {

using open_function = int (*)(char const*, int, ...);

int note_and_open(char const* name, char const* path, int flags, mode_t mode) {
  auto const next = reinterpret_cast<open_function>(::dlsym(RTLD_NEXT, name));
  if (char const* const log = std::getenv("GPTQ_OPENED")) {
    int const fd = next(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char line[4096];
    std::size_t const n = ::strnlen(path, sizeof line - 1);
    std::memcpy(line, path, n);
    line[n] = '\n';
    if (fd >= 0) static_cast<void>(!::write(fd, line, n + 1));
    if (fd >= 0) ::close(fd);
  }
  return next(path, flags, mode);
}

}  // namespace

extern "C" int open(char const* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t const mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return note_and_open("open", path, flags, mode);
}

extern "C" int open64(char const* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t const mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return note_and_open("open64", path, flags, mode);
}
