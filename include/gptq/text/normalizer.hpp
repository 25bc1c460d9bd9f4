/// The normalizer of a tokenizer: what happens to text before it is cut.
#pragma once

#include <gptq/text/part.hpp>
#include <gptq/text/text_pattern.hpp>
#include <gptq/text/unicode.hpp>

#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Steps applied in order: NFC, NFD, NFKC, NFKD; Prepend; Replace. A Sequence is its members, null has none.
class normalizer {
 public:
  normalizer() = default;

  /// Throws format_error for an unknown type.
  explicit normalizer(part const& p) { add(p); }

  [[nodiscard]] bool empty() const { return steps_.empty(); }

  /// Changes valid UTF-8 in place.
  void apply(std::string& text) const {
    for (auto const& step : steps_) std::visit([&](auto const& s) { s.apply(text); }, step);
  }

 private:
  struct unicode_form {
    normalization_form form;
    void apply(std::string& text) const {
      if (utf8::skip_ascii(text, 0) < text.size()) text = normalize(text, form);
    }
  };
  struct prepend {
    std::string prefix;
    void apply(std::string& text) const {
      if (!text.empty()) text.insert(0, prefix);
    }
  };
  struct replace {
    text_pattern pattern;
    std::string content;
    void apply(std::string& text) const { text = pattern.replaced(text, content); }
  };

  void add(part const& p) {
    if (p.null()) return;
    std::string const type = p.type();
    if (type == "Sequence")
      p.for_each("normalizers", [&](part const& member) { add(member); });
    else if (type == "NFC")
      steps_.emplace_back(unicode_form{normalization_form::nfc});
    else if (type == "NFD")
      steps_.emplace_back(unicode_form{normalization_form::nfd});
    else if (type == "NFKC")
      steps_.emplace_back(unicode_form{normalization_form::nfkc});
    else if (type == "NFKD")
      steps_.emplace_back(unicode_form{normalization_form::nfkd});
    else if (type == "Prepend")
      steps_.emplace_back(prepend{p.get<std::string>("prepend")});
    else if (type == "Replace")
      steps_.emplace_back(replace{text_pattern(p.child("pattern")), p.get<std::string>("content")});
    else
      p.refuse_type(type);
  }

  std::vector<std::variant<unicode_form, prepend, replace>> steps_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
