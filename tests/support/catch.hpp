/// The only file that knows which Catch2 is installed: v2 (Debian 12) or v3 (Ubuntu 24.04). Tests use what both have;
/// for text in a message that is `Catch::Matchers::…` with test::contains, never Approx or a string matcher by name.
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define GPTQ_TEST_CATCH_VERSION 3
namespace test {
inline auto contains(std::string const& text) { return Catch::Matchers::ContainsSubstring(text); }
}  // namespace test
#else
#include <catch2/catch.hpp>
#define GPTQ_TEST_CATCH_VERSION 2
namespace test {
inline auto contains(std::string const& text) { return Catch::Matchers::Contains(text); }
}  // namespace test
#endif
