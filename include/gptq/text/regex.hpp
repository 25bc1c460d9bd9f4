/// Regular expressions over UTF-8: PCRE2, with the rules by which Hugging Face tokenizers walk over matches.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/text/pattern_syntax.hpp>
#include <gptq/text/utf8.hpp>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {
namespace text {

namespace detail {

inline std::string pcre2_message(int code) {
  unsigned char text[256] = {};
  pcre2_get_error_message_8(code, text, sizeof text);
  return reinterpret_cast<char const*>(text);
}

/// What matching needs besides the pattern: one per thread, for all patterns.
struct match_workspace {
  struct release {
    void operator()(pcre2_match_data_8* p) const { pcre2_match_data_free_8(p); }
    void operator()(pcre2_match_context_8* p) const { pcre2_match_context_free_8(p); }
    void operator()(pcre2_jit_stack_8* p) const { pcre2_jit_stack_free_8(p); }
  };
  std::unique_ptr<pcre2_match_data_8, release> data{pcre2_match_data_create_8(1, nullptr)};
  std::unique_ptr<pcre2_match_context_8, release> context{pcre2_match_context_create_8(nullptr)};
  std::unique_ptr<pcre2_jit_stack_8, release> stack{pcre2_jit_stack_create_8(32 << 10, 8 << 20, nullptr)};

  match_workspace() {
    if (!data || !context) throw std::bad_alloc();
    if (stack) pcre2_jit_stack_assign_8(context.get(), nullptr, stack.get());
  }
  static match_workspace& of_this_thread() {
    static thread_local match_workspace workspace;
    return workspace;
  }
};

}  // namespace detail

/// A compiled expression; copies share it, and several threads may match with it.
class regex {
 public:
  /// An expression in PCRE2's own syntax. `where` opens the message of the format_error thrown for a bad one.
  regex(std::string_view pattern, std::string const& where) : where_(where) {
    std::unique_ptr<pcre2_compile_context_8, void (*)(pcre2_compile_context_8*)> context(
        pcre2_compile_context_create_8(nullptr), pcre2_compile_context_free_8);
    if (!context) throw std::bad_alloc();
    pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    std::size_t offset = 0;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                context.get()),
                pcre2_code_free_8);
    if (!code_)
      throw format_error(where + ": bad regular expression at byte " + std::to_string(offset) + ": " +
                         detail::pcre2_message(error));
    pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
  }

  /// An expression as tokenizer files hold it.
  static regex from_oniguruma(std::string_view pattern, std::string const& where) {
    return regex(translate_pattern(pattern, where), where);
  }

  /// Calls f(begin, end) for the matches from left to right, in time linear in the text for the patterns of
  /// tokenizers. An empty match right after another match is passed over. The text is valid UTF-8.
  /// Throws format_error if a pattern needs absurdly many steps.
  template <class F>
  void for_each_match(std::string_view text, F&& f) const {
    std::size_t from = 0;
    std::size_t last_end = text.size() + 1;
    while (from <= text.size()) {
      auto const found = search(text, from);
      if (!found) return;
      auto const [begin, end] = *found;
      if (begin == end && end == last_end) {
        from += from < text.size() ? utf8::sequence_size(text[from]) : 1;
        continue;
      }
      from = last_end = end;
      f(begin, end);
    }
  }

  /// Whether there is a match.
  [[nodiscard]] bool found_in(std::string_view text) const { return search(text, 0).has_value(); }

 private:
  [[nodiscard]] std::optional<std::pair<std::size_t, std::size_t>> search(std::string_view text,
                                                                          std::size_t from) const {
    // Without NO_UTF_CHECK each call would check the whole rest of the text again.
    std::uint32_t const options = PCRE2_NO_UTF_CHECK;
    detail::match_workspace& w = detail::match_workspace::of_this_thread();
    auto const* const subject = reinterpret_cast<PCRE2_SPTR8>(text.data() ? text.data() : "");
    int r = pcre2_match_8(code_.get(), subject, text.size(), from, options, w.data.get(), w.context.get());
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
      r = pcre2_match_8(code_.get(), subject, text.size(), from, options | PCRE2_NO_JIT, w.data.get(), w.context.get());
    if (r == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (r < 0) throw format_error(where_ + ": the regular expression failed: " + detail::pcre2_message(r));
    std::size_t const* const range = pcre2_get_ovector_pointer_8(w.data.get());
    return std::pair(range[0], range[1]);
  }

  std::string where_;
  std::shared_ptr<pcre2_code_8> code_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
