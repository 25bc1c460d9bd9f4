/// The pairs under ../shared/tokenizers: texts, and the ids that the original tokenizers gave.
#pragma once

#include "support/catch.hpp"

#include <gptq/text/text_file.hpp>

#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

namespace test {

struct conformance_case {
  std::string text;
  std::vector<std::int32_t> expected;
};

inline std::vector<conformance_case> conformance_cases(std::filesystem::path const& folder) {
  std::string const separator = "\n__ggml_vocab_test__\n";
  std::string const text = gptq::read_text(folder / "conformance.inp");
  gptq::line_reader lines(folder / "conformance.out");
  std::vector<conformance_case> cases;
  std::string line;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t const end = text.find(separator, begin);
    cases.push_back({text.substr(begin, end - begin), {}});
    begin = end + separator.size();
    REQUIRE(lines.next(line));
    std::istringstream numbers(line);
    for (std::int32_t id = 0; numbers >> id;) cases.back().expected.push_back(id);
  }
  return cases;
}

}  // namespace test
