/// The decoder: turns the spellings of tokens back into text.
#pragma once

#include <gptq/text/byte_level.hpp>
#include <gptq/text/part.hpp>
#include <gptq/text/text_pattern.hpp>
#include <gptq/text/utf8.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gptq {
inline namespace v0 {
namespace text {

/// Steps over a list of spellings: ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace. A Sequence is its members.
class decoder {
 public:
  decoder() = default;

  /// Throws format_error for an unknown type.
  explicit decoder(part const& p) : none_(p.null()) { add(p); }

  /// The text of tokens in order; without a decoder they are joined with spaces.
  [[nodiscard]] std::string run(std::vector<std::string> tokens) const {
    for (auto const& step : steps_) std::visit([&](auto const& s) { s.apply(tokens); }, step);
    std::string out;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (none_ && i > 0) out += ' ';
      out += tokens[i];
    }
    return out;
  }

 private:
  struct byte_level {
    void apply(std::vector<std::string>& tokens) const {
      std::string bytes;
      for (std::string const& token : tokens) append_bytes(bytes, token);
      std::string storage;
      tokens.assign(1, std::string(utf8::repair(bytes, storage)));
    }
  };

  struct metaspace {
    std::string replacement;
    bool prepended;  // the first token starts with one that stands for no space
    void apply(std::vector<std::string>& tokens) const {
      text_pattern const pattern(replacement);
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = pattern.replaced(tokens[i], i == 0 && prepended ? "" : " ");
    }
  };

  struct byte_fallback {
    void apply(std::vector<std::string>& tokens) const {
      std::vector<std::string> out;
      std::string bytes;
      auto const flush = [&] {
        if (utf8::valid_size(bytes) == bytes.size()) {
          if (!bytes.empty()) out.push_back(bytes);
        } else {
          out.insert(out.end(), bytes.size(), "\uFFFD");
        }
        bytes.clear();
      };
      for (std::string& token : tokens) {
        int const byte = value(token);
        if (byte >= 0) {
          bytes += static_cast<char>(static_cast<unsigned char>(byte));
        } else {
          flush();
          out.push_back(std::move(token));
        }
      }
      flush();
      tokens = std::move(out);
    }
    /// The byte of "<0x0A>", or -1.
    static int value(std::string_view token) {
      if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
      int const high = digit(token[3]);
      int const low = digit(token[4]);
      return high < 0 || low < 0 ? -1 : high * 16 + low;
    }
    static int digit(char c) {
      if (c >= '0' && c <= '9') return c - '0';
      if (c >= 'A' && c <= 'F') return c - 'A' + 10;
      if (c >= 'a' && c <= 'f') return c - 'a' + 10;
      return -1;
    }
  };

  struct fuse {
    void apply(std::vector<std::string>& tokens) const {
      std::string all;
      for (std::string const& token : tokens) all += token;
      tokens.assign(1, std::move(all));
    }
  };

  struct strip {
    std::string content;
    std::size_t start;  // how many at most
    std::size_t stop;
    void apply(std::vector<std::string>& tokens) const {
      for (std::string& token : tokens) {
        std::string_view rest = token;
        for (std::size_t i = 0; i < start && rest.substr(0, content.size()) == content; ++i)
          rest.remove_prefix(content.size());
        for (std::size_t i = 0;
             i < stop && rest.size() >= content.size() && rest.substr(rest.size() - content.size()) == content; ++i)
          rest.remove_suffix(content.size());
        token = std::string(rest);
      }
    }
  };

  struct replace {
    text_pattern pattern;
    std::string content;
    void apply(std::vector<std::string>& tokens) const {
      for (std::string& token : tokens) token = pattern.replaced(token, content);
    }
  };

  void add(part const& p) {
    if (p.null()) return;
    std::string const type = p.type();
    if (type == "Sequence") {
      p.for_each("decoders", [&](part const& member) { add(member); });
    } else if (type == "ByteLevel") {
      steps_.emplace_back(byte_level{});
    } else if (type == "Metaspace") {
      bool const never = p.get_or<std::string>("prepend_scheme", "always") == "never";
      steps_.emplace_back(metaspace{p.get_or<std::string>("replacement", "\u2581"), !never});
    } else if (type == "ByteFallback") {
      steps_.emplace_back(byte_fallback{});
    } else if (type == "Fuse") {
      steps_.emplace_back(fuse{});
    } else if (type == "Strip") {
      strip step{p.get<std::string>("content"), p.get_or<std::size_t>("start", 0), p.get_or<std::size_t>("stop", 0)};
      if (step.content.empty()) p.refuse("content is empty");
      steps_.emplace_back(std::move(step));
    } else if (type == "Replace") {
      steps_.emplace_back(replace{text_pattern(p.child("pattern")), p.get<std::string>("content")});
    } else {
      p.refuse_type(type);
    }
  }

  bool none_ = true;
  std::vector<std::variant<byte_level, metaspace, byte_fallback, fuse, strip, replace>> steps_;
};

}  // namespace text
}  // namespace v0
}  // namespace gptq
