// Options and what is wrong with them: exit code 2 and one line that names the option.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <size.hpp>

#include <fcntl.h>
#include <unistd.h>

namespace {

using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;

}  // namespace

TEST_CASE("version and help go to stdout", "[app]") {
  auto const version = run_app({"--version"});
  CHECK(version.code == 0);
  CHECK(version.err.empty());
  CHECK_THAT(version.out, test::contains("gptq 0."));
  for (std::string const command : {"quantize", "perplexity", "inspect", "tokenize"}) {
    auto const help = run_app({command, "--help"});
    CHECK(help.code == 0);
    CHECK(help.err.empty());
    CHECK_THAT(help.out, test::contains("Usage: gptq " + command));
    CHECK_THAT(run_app({"--help"}).out, test::contains(command));
  }
}

TEST_CASE("a wrong command line is an error of usage", "[app]") {
  check_refused(run_app({}), 2, {"subcommand"});
  check_refused(run_app({"frobnicate"}), 2, {"frobnicate"});
  check_refused(run_app({"quantize"}), 2, {"model", "gptq quantize --help"});
  check_refused(run_app({"quantize", "a", "b"}), 2, {"--calibration"});
  check_refused(run_app({"inspect", "a", "b"}), 2, {"b"});
  check_refused(run_app({"tokenize", "a"}), 2, {"--text"});
  check_refused(run_app({"perplexity", "a"}), 2, {"--text", "--ids"});
  check_refused(run_app({"perplexity", "a", "--text", "b", "--ids", "c"}), 2, {"--text", "--ids"});
  check_refused(run_app({"perplexity", "a", "--text", "b", "--context", "1"}), 2, {"--context"});
  check_refused(run_app({"perplexity", "a", "--text", "b", "--max-tokens", "-4"}), 2, {"--max-tokens"});
}

TEST_CASE("each option of quantize refuses nonsense by its name", "[app]") {
  model_copy const m;
  std::vector<std::vector<std::string>> const wrong = {{"--bits", "5"},
                                                       {"--bits", "x"},
                                                       {"--bits", ""},
                                                       {"--group-size", "0"},
                                                       {"--group-size", "48"},
                                                       {"--group-size", "8"},
                                                       {"--group-size", "-2"},
                                                       {"--order", "random"},
                                                       {"--calibration-format", "csv"},
                                                       {"--samples", "0"},
                                                       {"--samples", "-3"},
                                                       {"--samples", "many"},
                                                       {"--sequence-length", "0"},
                                                       {"--damp-percent", "0"},
                                                       {"--damp-percent", "1"},
                                                       {"--damp-percent", "nan"},
                                                       {"--damp-percent", "-0.1"},
                                                       {"--target-shift", "1.5"},
                                                       {"--residual-shift", "-1"},
                                                       {"--sweeps", "-1"},
                                                       {"--mse", "-1"},
                                                       {"--mse", "nan"},
                                                       {"--mse", "1e9"},
                                                       {"--format", "awq"},
                                                       {"--dtype", "bfloat16"},
                                                       {"--shard-size", "big"},
                                                       {"--shard-size", "0"},
                                                       {"--shard-size", "-4GB"},
                                                       {"--shard-size", "4XB"},
                                                       {"--preset", "finest"},
                                                       {"--device", "tpu"},
                                                       {"--device-memory", "10GiB"},  // of the host
                                                       {"--device-memory", "lots"},
                                                       {"--threads", "0"},
                                                       {"--threads", "-1"},
                                                       {"--threads", "1000000"},
                                                       {"--report", "report.txt"},
                                                       {"--static-groups"},
                                                       {"--nonsense"}};
  for (auto const& option : wrong) {
    INFO(option.front() << ' ' << option.back());
    std::vector<std::string> arguments = {"quantize", m.model().string(), m.output().string(), "--calibration",
                                          "c.txt"};
    arguments.insert(arguments.end(), option.begin(), option.end());
    check_refused(run_app(arguments), 2, {option.front()});
  }
  check_refused(run_app({"quantize", m.model().string(), m.output().string(), "--calibration", "c.txt",
                         "--static-groups", "--order", "natural", "--group-size", "-1"}),
                2, {"--static-groups"});
}

#if !GPTQ_WITH_CUDA
TEST_CASE("a device that the build does not have is one clear line", "[app]") {
  model_copy const m;
  m.check_refused({"--device cuda", "built without CUDA"}, {"--device", "cuda"});
  check_refused(run_app({"perplexity", m.model().string(), "--device", "cuda", "--text", "x"}), 1, {"--device cuda"});
}
#endif

TEST_CASE("output that can't be written is an error", "[app]") {
  model_copy const m;
  auto const text = m.folder().write("t.txt", "Some text.").string();
  auto const r = run_app({"tokenize", m.model().string(), "--text", text}, {.out_file = "/dev/full"});
  CHECK(r.code == 1);
  CHECK_THAT(r.err, test::contains("standard output") && test::contains("No space left"));
}

TEST_CASE("messages that can't be written end no run", "[app]") {
  model_copy const m;
  int const full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  REQUIRE(full > 2);
  auto const r = run_app(m.small_run(), {.err_descriptor = full});
  CHECK(r.code == 0);
  run_well({"inspect", m.output().string()});
  CHECK(run_app(m.small_run(), {.err_descriptor = full}).code == 1);  // the output exists
  ::close(full);
}

TEST_CASE("no file takes the place of a standard stream that is closed", "[app]") {
  model_copy const m;
  CHECK(run_app(m.small_run(), {.closed = {2}}).code == 0);
  run_well({"inspect", m.output().string()});
  std::filesystem::remove_all(m.output());
  CHECK(run_app(m.small_run(), {.closed = {0, 1, 2}}).code == 1);  // the table can't be written
  run_well({"inspect", m.output().string()});
}

TEST_CASE("sizes are read in decimal and binary units", "[app]") {
  CHECK(app::parse_size("--s", "4GB") == 4'000'000'000u);
  CHECK(app::parse_size("--s", "500MB") == 500'000'000u);
  CHECK(app::parse_size("--s", "2GiB") == std::uint64_t{1} << 31);
  CHECK(app::parse_size("--s", "1.5 kb") == 1500u);
  CHECK(app::parse_size("--s", "12345") == 12345u);
  CHECK(app::parse_size("--s", "7B") == 7u);
  for (std::string const text :
       {"", "GB", "0", "0.4", "-1", "4XB", "1e5", "inf", "nan", "4GBB", "0x10", "9999999999TB"}) {
    INFO(text);
    CHECK_THROWS_AS(app::parse_size("--s", text), app::usage_error);
  }
}
