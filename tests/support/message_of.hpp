/// What an error says, for tests of messages.
#pragma once

#include "support/catch.hpp"

#include <gptq/core/error.hpp>

#include <string>

namespace test {

/// The message of the error that `f` throws; fails the test if it throws none, or one of several lines.
template <class Error = gptq::format_error, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (Error const& e) {
    std::string const what = e.what();
    CHECK(what.find('\n') == std::string::npos);
    return what;
  }
  FAIL("nothing was thrown");
  return {};
}

}  // namespace test
