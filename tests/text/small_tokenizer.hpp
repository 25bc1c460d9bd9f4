/// Small tokenizers for tests: a tokenizer.json of which a test states the parts that it is about.
#pragma once

#include <gptq/text/tokenizer.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace test {

using ids = std::vector<std::int32_t>;

struct small_tokenizer {
  std::string vocab = R"({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, " ": 5, "bc": 6, "▁": 7, "d": 8, ".": 9})";
  std::string merges = R"(["a b", "b c", "ab c"])";
  std::string model;  ///< further keys, each with a comma before it
  std::string added = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = R"({"type": "Fuse"})";

  [[nodiscard]] std::string text() const {
    return R"({"version": "1.0", "truncation": {"max_length": 3}, "padding": {"length": 9}, "added_tokens": )" + added +
           R"(, "normalizer": )" + normalizer + R"(, "pre_tokenizer": )" + pre_tokenizer + R"(, "post_processor": )" +
           post_processor + R"(, "decoder": )" + decoder + R"(, "model": {"type": "BPE", "vocab": )" + vocab +
           R"(, "merges": )" + merges + model + "}}";
  }
  [[nodiscard]] gptq::tokenizer make() const {
    return gptq::tokenizer(gptq::parse_json(text(), "small.json"), "small.json");
  }
  [[nodiscard]] ids encode(std::string_view s, bool special = false) const { return make().encode(s, special); }

  /// The words that the model sees: their pieces in brackets.
  [[nodiscard]] std::vector<std::string> tokens(std::string_view s) const {
    gptq::tokenizer const t = make();
    std::vector<std::string> out;
    for (std::int32_t const id : t.encode(s)) out.emplace_back(*t.id_to_token(id));
    return out;
  }
};

/// A document for the constructor of one part. It must outlive the part.
inline gptq::json json(std::string const& text) { return gptq::parse_json(text, "test"); }

}  // namespace test
