#include "support/catch.hpp"
#include "support/temp_dir.hpp"

#include <gptq/core/error.hpp>
#include <gptq/text/text_file.hpp>

#include <string>

TEST_CASE("a text file is read whole, without its byte-order mark") {
  test::temp_dir const dir;
  CHECK(gptq::read_text(dir.write("a.txt",
                                  "\xEF\xBB\xBF"
                                  "a\r\nb")) == "a\r\nb");
  CHECK(gptq::read_text(dir.write("b.txt", "")).empty());
  std::string const large(200'000, 'x');
  CHECK(gptq::read_text(dir.write("c.txt", large + '\0' + large)) == large + '\0' + large);
}

TEST_CASE("lines end in LF, the last may lack it, and they are counted") {
  test::temp_dir const dir;
  gptq::line_reader lines(dir.write("a.txt",
                                    "\xEF\xBB\xBF"
                                    "one\n\nthree"));
  std::string line;
  REQUIRE(lines.next(line));
  CHECK(line == "one");
  REQUIRE(lines.next(line));
  CHECK(line.empty());
  REQUIRE(lines.next(line));
  CHECK(line == "three");
  CHECK(lines.number() == 3);
  CHECK_FALSE(lines.next(line));
}

TEST_CASE("UTF-16 is refused, whole or line by line") {
  test::temp_dir const dir;
  for (std::string const text : {"\xFF\xFEh", "\xFE\xFF"}) {
    auto const file = dir.write("a.txt", text);
    CHECK_THROWS_WITH(gptq::read_text(file), test::contains("a.txt: UTF-16 text; UTF-8 is needed"));
    std::string line;
    CHECK_THROWS_AS(gptq::line_reader(file).next(line), gptq::format_error);
  }
  CHECK(gptq::read_text(dir.write("b.txt", "\xFF")) == "\xFF");
}

TEST_CASE("files that can't be read are named") {
  test::temp_dir const dir;
  CHECK_THROWS_WITH(gptq::read_text(dir / "none.txt"), test::contains("none.txt: can't open: No such file"));
  CHECK_THROWS_WITH(gptq::read_text(dir.path()), test::contains("a folder, not a file"));
  CHECK_THROWS_AS(gptq::read_text(dir / "none.txt"), gptq::format_error);
}
