/// The golden files of the test models: what an independent implementation computed.
#pragma once

#include "support/catch.hpp"

#include <gptq/io/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace test {

using samples = std::vector<std::vector<std::int32_t>>;

/// max |difference| of logits, by the arithmetic of the linear layers; ../shared/README.md has what errors of all kinds do.
inline constexpr double golden_bound = 2e-4;
inline constexpr double golden_bound_float16 = 3e-2;
inline constexpr double golden_bound_bfloat16 = 3e-1;

/// Logits that an independent implementation gave for some positions of two samples.
struct golden {
  samples ids;                          ///< [2][96]
  std::vector<std::int32_t> positions;  ///< [12]
  gptq::matrix<float> logits;           ///< [2·12 × vocabulary]

  explicit golden(std::filesystem::path const& path) {
    gptq::safetensors_file const file(path);
    auto const find = [&](std::string const& name) -> gptq::tensor_view const& {
      for (auto const& t : file.tensors())
        if (t.name == name) return t;
      FAIL("no tensor " << name << " in " << path.string());
      throw 0;
    };
    auto const integers = [](gptq::tensor_view const& t, gptq::index_t first, gptq::index_t count) {
      std::vector<std::int32_t> values;
      for (gptq::index_t i = first; i < first + count; ++i)
        values.push_back(gptq::load<std::int32_t>(t.bytes.data(), i));
      return values;
    };
    auto const& tokens = find("input_ids");
    for (std::int64_t s = 0; s < tokens.shape[0]; ++s)
      ids.push_back(integers(tokens, s * tokens.shape[1], tokens.shape[1]));
    positions = integers(find("positions"), 0, find("positions").shape[0]);
    auto const& stored = find("logits");
    logits = gptq::matrix<float>(stored.shape[0] * stored.shape[1], stored.shape[2]);
    gptq::to_float(stored, 0, logits.size(), logits.data());
  }
};

}  // namespace test
