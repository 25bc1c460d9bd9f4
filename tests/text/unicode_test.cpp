#include "support/catch.hpp"

#include <gptq/text/unicode.hpp>

#include <cstdlib>
#include <string>
#include <string_view>

using gptq::text::normalization_form;

namespace {

std::string nfc(std::string_view text) { return gptq::text::normalize(text, normalization_form::nfc); }

/// utf8proc's own way, which is quadratic on long runs of marks.
std::string by_utf8proc(std::string const& text, int options) {
  unsigned char* out = nullptr;
  auto const size =
      utf8proc_map(reinterpret_cast<unsigned char const*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &out, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | options));
  REQUIRE(size >= 0);
  std::string result(reinterpret_cast<char const*>(out), static_cast<std::size_t>(size));
  std::free(out);
  return result;
}

}  // namespace

TEST_CASE("NFC composes letters and marks, Hangul, and puts marks in order") {
  CHECK(nfc("cafe\u0301") == "caf\u00e9");
  CHECK(nfc("\u1112\u1161\u11ab") == "\ud55c");
  CHECK(nfc("q\u0307\u0323") == "q\u0323\u0307");  // above and below exchanged, nothing to compose
  CHECK(nfc("a\u0323\u0302") == "\u1ead");
  CHECK(nfc("a\u0302\u0323") == "\u1ead");
  CHECK(nfc("\u212b\u2126") == "\u00c5\u03a9");    // singletons
  CHECK(nfc("\u0958") == "\u0915\u093c");          // a composition exclusion
  CHECK(nfc("\u0301x\u0301") == "\u0301x\u0301");  // a mark without base
  CHECK(nfc("\uac00\u11a8") == "\uac01");          // a syllable takes a final consonant
}

TEST_CASE("text that is composed stays as it is") {
  for (std::string const text : {"plain ASCII", "\u00fcber \u8a9e\u2019s \ud55c\uae00", "", "\U0001F600\u3042"})
    CHECK(nfc(text) == text);
}

TEST_CASE("the other forms") {
  CHECK(gptq::text::normalize("\u00e9\ufb01", normalization_form::nfd) == "e\u0301\ufb01");
  CHECK(gptq::text::normalize("\u00e9\ufb01\u00bd", normalization_form::nfkc) == "\u00e9fi1\u20442");
  CHECK(gptq::text::normalize("\u00e9\ufb01", normalization_form::nfkd) == "e\u0301fi");
}

TEST_CASE("the forms agree with utf8proc_map on every code point, alone and between others") {
  struct {
    normalization_form form;
    int options;
  } const forms[] = {{normalization_form::nfc, UTF8PROC_COMPOSE},
                     {normalization_form::nfd, UTF8PROC_DECOMPOSE},
                     {normalization_form::nfkc, UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                     {normalization_form::nfkd, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  for (auto const& f : forms) {
    int different = 0;
    for (char32_t c = 0; c < 0x30000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string text = "ae";
      gptq::utf8::append(text, c);
      text += "\u0323x\u0301";
      gptq::utf8::append(text, c);
      gptq::utf8::append(text, c);
      text += "\u11a8\u0f72\u0f71";
      different += gptq::text::normalize(text, f.form) != by_utf8proc(text, f.options);
    }
    CHECK(different == 0);
  }
}

TEST_CASE("marks of one kind keep their order in long runs") {
  std::string text = "q";
  for (int i = 0; i < 60; ++i) text += i % 3 == 0 ? "\u0323" : i % 7 < 3 ? "\u0300" : "\u0301";
  CHECK(nfc(text) == by_utf8proc(text, UTF8PROC_COMPOSE));
}

TEST_CASE("a million combining marks in the wrong order take no quadratic time", "[slow]") {
  std::string text = "e";
  for (int i = 0; i < 500'000; ++i) text += "\u0301\u0323";
  std::string const sorted = nfc(text);
  CHECK(sorted.substr(0, 5) == "\u1eb9\u0323");  // e with dot below, then the other dots, then the accents
  CHECK(sorted.size() == text.size());
  std::string vowels;
  for (int i = 0; i < 300'000; ++i) vowels += "\u0f73";  // a starter that decomposes to marks
  CHECK(nfc(vowels).substr(0, 6) == "\u0f71\u0f71");
}

TEST_CASE("numbers and punctuation") {
  CHECK(gptq::text::is_number(U'7'));
  CHECK(gptq::text::is_number(U'\u00bd'));
  CHECK(gptq::text::is_number(U'\u2167'));
  CHECK_FALSE(gptq::text::is_number(U'x'));
  for (char32_t const c : {U'!', U'$', U'~', U'`', U'_', U'\u3002', U'\u00ab'}) CHECK(gptq::text::is_punctuation(c));
  for (char32_t const c : {U' ', U'0', U'A', U'z', U'\u20ac', U'\x7f'}) CHECK_FALSE(gptq::text::is_punctuation(c));
}
