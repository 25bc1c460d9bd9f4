/// The post-processor: the ids that stand before and after a text, such as BOS and EOS.
#pragma once

#include <gptq/text/part.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// TemplateProcessing for a single text; ByteLevel, which changes no ids; a Sequence of both; null.
class post_processor {
 public:
  post_processor() = default;

  /// Throws format_error for an unknown type or a template that is not whole.
  explicit post_processor(part const& p) { add(p); }

  /// What a template puts in.
  [[nodiscard]] std::vector<std::int32_t> const& prefix() const { return prefix_; }
  [[nodiscard]] std::vector<std::int32_t> const& suffix() const { return suffix_; }

  void apply(std::vector<std::int32_t>& ids) const {
    ids.insert(ids.begin(), prefix_.begin(), prefix_.end());
    ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  }

 private:
  void add(part const& p) {
    if (p.null()) return;
    std::string const type = p.type();
    if (type == "Sequence")
      p.for_each("processors", [&](part const& member) { add(member); });
    else if (type == "TemplateProcessing")
      add_template(p);
    else if (type != "ByteLevel")
      p.refuse_type(type);
  }

  void add_template(part const& p) {
    std::vector<std::int32_t> before;
    std::vector<std::int32_t> after;
    bool text_seen = false;
    p.for_each("single", [&](part const& piece) {
      if (part const token = piece.child("SpecialToken"); !token.null()) {
        auto const ids = special_ids(p, token.get<std::string>("id"));
        auto& side = text_seen ? after : before;
        side.insert(side.end(), ids.begin(), ids.end());
      } else if (part const sequence = piece.child("Sequence"); !sequence.null()) {
        if (text_seen || sequence.get<std::string>("id") != "A") piece.refuse("the text must appear once, as \"A\"");
        text_seen = true;
      } else {
        piece.refuse("SpecialToken or Sequence is needed");
      }
    });
    if (!text_seen) p.refuse("the template for a single text has no place for it");
    prefix_.insert(prefix_.begin(), before.begin(), before.end());  // a later template encloses an earlier one
    suffix_.insert(suffix_.end(), after.begin(), after.end());
  }

  static std::vector<std::int32_t> special_ids(part const& p, std::string const& name) {
    part const entry = p.child("special_tokens").child(name.c_str());
    if (entry.null()) p.refuse("the template names \"" + gptq::detail::printable(name, 60) + "\", which has no ids");
    std::vector<std::int32_t> ids;
    part const list = entry.child("ids");
    if (!list.value().is_array()) list.refuse("a JSON array is needed");
    for (json const& value : list.value()) {
      std::int32_t id = 0;
      if (!gptq::detail::convert(value, id) || id < 0) list.refuse("an id must be an integer from 0 on");
      ids.push_back(id);
    }
    return ids;
  }

  std::vector<std::int32_t> prefix_;
  std::vector<std::int32_t> suffix_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
