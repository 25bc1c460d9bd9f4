// The number of threads changes no byte of what quantize writes.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <map>

namespace {

/// Every file that quantize writes with these options.
std::map<std::string, std::string> files(test::model_copy const& m, std::vector<std::string> more, int threads) {
  more.insert(more.end(), {"--threads", std::to_string(threads), "--samples", "9", "--sequence-length", "64"});
  test::run_well(m.small_run(more));
  std::map<std::string, std::string> all;
  for (auto const& name : test::names_in(m.output())) all[name] = test::file_text(m.output() / name);
  std::filesystem::remove_all(m.output());
  return all;
}

}  // namespace

TEST_CASE("quantize writes the same bytes with any number of threads", "[app][slow]") {
  test::model_copy const m;
  for (std::string const preset : {"default", "best"})
    for (std::string const bits : {"2", "3", "4", "8"}) {
      std::vector<std::string> const options = {"--bits", bits, "--preset", preset};
      auto const one = files(m, options, 1);
      for (int const threads : {2, 3, 4, 16}) {
        CAPTURE(preset, bits, threads);
        CHECK(files(m, options, threads) == one);
      }
    }
}
