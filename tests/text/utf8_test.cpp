#include "support/catch.hpp"

#include <gptq/text/utf8.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace utf8 = gptq::utf8;

namespace {
std::string repaired(std::string_view bytes, gptq::index_t* replaced = nullptr) {
  std::string storage;
  return std::string(utf8::repair(bytes, storage, replaced));
}
}  // namespace

TEST_CASE("every code point survives encoding and decoding, forwards and backwards") {
  std::string text;
  std::vector<char32_t> codes;
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 61) {
    if (c >= 0xD800 && c < 0xE000) continue;
    codes.push_back(c);
    utf8::append(text, c);
  }
  REQUIRE(utf8::valid_size(text) == text.size());
  std::vector<char32_t> forwards;
  for (std::size_t at = 0; at < text.size();) forwards.push_back(utf8::decode(text, at));
  CHECK(forwards == codes);
  std::vector<char32_t> backwards;
  for (std::size_t at = text.size(); at > 0;) backwards.insert(backwards.begin(), utf8::decode_before(text, at));
  CHECK(backwards == codes);
}

TEST_CASE("valid text is not copied") {
  std::string const text = "plain, \u00e9\u8a9e\U0001F600";
  std::string storage;
  CHECK(utf8::repair(text, storage).data() == text.data());
}

TEST_CASE("each maximal subpart of a broken sequence becomes one U+FFFD") {
  struct {
    std::string_view bytes;
    std::string_view text;
    int replaced;
  } const cases[] = {
      {"a\xFFz", "a\uFFFDz", 1},                                      // never a lead byte
      {"\x80\xBF", "\uFFFD\uFFFD", 2},                                // continuation bytes alone
      {"\xC0\xAF", "\uFFFD\uFFFD", 2},                                // overlong "/"
      {"\xE0\x80\xAF", "\uFFFD\uFFFD\uFFFD", 3},                      // overlong in three bytes
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD", 3},                      // surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD", 4},            // above U+10FFFF
      {"\xF1\x80\x80\xE1\x80\xC2\x62", "\uFFFD\uFFFD\uFFFD\x62", 3},  // the example of Unicode 3.9
      {"x\xE8\xAA", "x\uFFFD", 1},                                    // cut off at the end
      {"\xE8\xAA\x9E\xE8", "\u8a9e\uFFFD", 1},
      {"\xF0\x9F\x98\x80\xF0\x9F\x98", "\U0001F600\uFFFD", 1},
  };
  for (auto const& c : cases) {
    gptq::index_t replaced = 0;
    CHECK(repaired(c.bytes, &replaced) == c.text);
    CHECK(replaced == c.replaced);
  }
}

TEST_CASE("repairing finds a bad byte at any distance from the last good one") {
  for (std::size_t n = 0; n < 40; ++n) {
    std::string text(n, 'x');
    text += '\xFF';
    text += std::string(n, 'y');
    CHECK(repaired(text) == std::string(n, 'x') + "\uFFFD" + std::string(n, 'y'));
  }
}

TEST_CASE("white space is the Unicode property: 25 code points, not U+180E and not U+200B") {
  int count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) count += utf8::is_white_space(c);
  CHECK(count == 25);
  CHECK_FALSE(utf8::is_white_space(0x180E));
  CHECK_FALSE(utf8::is_white_space(0x200B));
}

TEST_CASE("strip removes white space of any kind at both ends only") {
  CHECK(utf8::strip(" \t\u3000a b\u00a0\u2028\r\n") == "a b");
  CHECK(utf8::strip("\u180ea\u200b") == "\u180ea\u200b");
  CHECK(utf8::strip(" \r\n\u3000").empty());
  CHECK(utf8::strip("").empty());
}
