/// Where tests find their data: the source tree, and the shared test data that lives outside the repository.
#pragma once

#include "support/catch.hpp"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

namespace test {

/// The root of the repository.
inline std::filesystem::path source_dir() { return GPTQ_SOURCE_DIR; }

/// The bundled model, always there.
inline std::filesystem::path bundled_model() { return source_dir() / "examples" / "models" / "bard-qwen2-1m"; }

/// The folder of shared test data: $GPTQ_SHARED, else what the build was configured with (<repository>/../shared). It
/// may be missing: begin a test that reads from it with GPTQ_REQUIRE_SHARED.
inline std::filesystem::path shared_dir() {
  char const* const folder = std::getenv("GPTQ_SHARED");
  return folder && *folder ? folder : GPTQ_SHARED_DIR;
}

/// True where missing shared data is a failure, not a reason to skip: in CI.
inline bool shared_data_required() {
  char const* const value = std::getenv("GPTQ_REQUIRE_SHARED_DATA");
  return value && std::string_view(value) == "1";
}

}  // namespace test

/// Ends the test case with a message where `relative` (a path below shared_dir(), "" for the folder itself) is missing;
/// fails it where the environment says GPTQ_REQUIRE_SHARED_DATA=1.
#define GPTQ_REQUIRE_SHARED(relative)                                                                   \
  do {                                                                                                  \
    std::filesystem::path const gptq_required = ::test::shared_dir() / (relative);                      \
    if (!std::filesystem::exists(gptq_required)) {                                                      \
      if (::test::shared_data_required()) FAIL("missing shared test data: " << gptq_required.string()); \
      WARN("skipped, missing shared test data: " << gptq_required.string());                            \
      return;                                                                                           \
    }                                                                                                   \
  } while (false)
