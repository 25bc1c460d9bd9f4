// Which samples the calibration formats give: each is compared with the ids that it is documented to mean.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <fstream>

namespace {

using test::model_copy;
using test::run_well;

/// The quantized weights: they are equal only if the samples were.
std::string quantized(model_copy const& m, std::string const& calibration, std::vector<std::string> more) {
  std::filesystem::remove_all(m.output());
  more.insert(more.begin(), {"quantize", m.model().string(), m.output().string(), "--calibration", calibration});
  run_well(more);
  return test::file_text(m.output() / "model.safetensors");
}

std::vector<int> ids_of(model_copy const& m, std::string const& text, bool special = false) {
  auto const file = m.folder().write("piece.txt", text);
  std::vector<std::string> arguments = {"tokenize", m.model().string(), "--text", file.string(), "--json"};
  if (special) arguments.push_back("--add-special");
  return gptq::parse_json(run_well(arguments).out, "stdout").at("ids").get<std::vector<int>>();
}

std::string record(std::vector<int> const& ids) { return gptq::json{{"input_ids", ids}}.dump() + "\n"; }

std::vector<int> cut(std::vector<int> ids, std::size_t length) {
  ids.resize((std::min)(ids.size(), length));
  return ids;
}

std::vector<std::string> const lines = {"FIRST LINE: to be, or not to be, that is the question.",
                                        "KING: A second line, which is a sample too.", "Third: the last one."};

}  // namespace

TEST_CASE("lines are samples of their own, with BOS, cut, whatever ends them", "[app]") {
  model_copy const m;
  m.add_bos();
  std::string plain, odd = "\xEF\xBB\xBF", ids;
  for (auto const& line : lines) {
    plain += line + "\n";
    odd += line + "\r\n\r\n";
    ids += record(cut(ids_of(m, line, true), 12));
    CHECK(ids_of(m, line, true).front() == 0);
  }
  std::vector<std::string> const size = {"--sequence-length", "12"};
  auto const wanted = quantized(m, m.folder().write("c.jsonl", ids).string(), size);
  CHECK(quantized(m, m.folder().write("plain.txt", plain).string(), size) == wanted);
  CHECK(quantized(m, m.folder().write("odd.txt", odd).string(), size) == wanted);
  std::string const without_bos = m.folder().write("w.jsonl", record(ids_of(m, lines[0]))).string();
  CHECK(quantized(m, without_bos, size) != wanted);
}

TEST_CASE("--samples takes the first lines", "[app]") {
  model_copy const m;
  auto const two = quantized(m, m.folder().write("2.txt", lines[0] + "\n\n" + lines[1]).string(), {"--samples", "2"});
  auto const all = m.folder().write("3.txt", lines[0] + "\n\n" + lines[1] + "\n" + lines[2]).string();
  CHECK(quantized(m, all, {"--samples", "2"}) == two);
  CHECK(quantized(m, all, {"--samples", "3"}) != two);
}

TEST_CASE("windows are consecutive, full, and without BOS", "[app]") {
  model_copy const m;
  m.add_bos();
  std::string const text = lines[0] + "\n" + lines[1] + "\n" + lines[2] + "\n";
  auto const all = ids_of(m, text);
  REQUIRE(all.size() > 40);
  std::string ids;
  for (std::size_t at = 0; at + 16 <= all.size(); at += 16)
    ids += record({all.begin() + static_cast<std::ptrdiff_t>(at), all.begin() + static_cast<std::ptrdiff_t>(at + 16)});
  auto const wanted = quantized(m, m.folder().write("c.jsonl", ids).string(), {});
  CHECK(quantized(m, m.folder().write("c.txt", text).string(),
                  {"--calibration-format", "windows", "--sequence-length", "16"}) == wanted);
}

TEST_CASE("ids need no tokenizer", "[app]") {
  model_copy const m;
  std::filesystem::remove(m.model() / "tokenizer.json");
  auto const file = m.folder().write("c.data", record({5, 6, 7, 8, 9, 10}) + "[11, 12, 13]\n").string();
  run_well({"quantize", m.model().string(), m.output().string(), "--calibration", file, "--calibration-format", "ids"});
}

TEST_CASE("what is odd about the calibration data is said, on stderr and in the report", "[app]") {
  model_copy const m;
  m.edit_json("config.json", [](gptq::json& config) { config["max_position_embeddings"] = 8; });
  auto const file = m.folder().write("c.txt", lines[0] + " \xff\xfe tail\n").string();
  auto const report = m.results() / "r.json";
  auto const r = run_well({"quantize", m.model().string(), m.output().string(), "--calibration", file, "--samples", "5",
                           "--report", report.string()});
  for (std::string const text : {"not UTF-8", "1 sample, fewer than the 5 asked for", "8 positions of the model",
                                 "384 inputs of the widest layer"}) {
    CHECK_THAT(r.err, test::contains(text));
    CHECK_THAT(gptq::read_json(report).at("warnings").dump(), test::contains(text));
  }
}

TEST_CASE("calibration data that can't be used is refused", "[app]") {
  model_copy const m;
  auto const refused = [&](std::string const& file, std::initializer_list<std::string> names, int code = 1,
                           std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"quantize", m.model().string(), m.output().string(), "--calibration", file});
    test::check_refused(test::run_app(more), code, names);
    CHECK(test::names_in(m.results()).empty());
  };
  auto const write = [&](char const* name, std::string_view text) { return m.folder().write(name, text).string(); };
  refused((m.folder() / "none.txt").string(), {"--calibration", "none.txt", "No such file"});
  std::filesystem::create_directory(m.folder() / "folder.txt");
  refused((m.folder() / "folder.txt").string(), {"--calibration", "folder.txt", "a folder"});
  refused("/dev/zero", {"--calibration", "/dev/zero", "a device"}, 1, {"--calibration-format", "lines"});
  refused(write("empty.txt", ""), {"--calibration", "empty.txt", "is empty"});
  refused(write("blank.txt", "\n \r\n\t\n"), {"blank.txt", "no line with text"});
  refused(write("short.txt", "A few words."), {"short.txt", "fewer than one window of 64"}, 1,
          {"--calibration-format", "windows", "--sequence-length", "64"});
  refused(write("a.md", "text"), {"--calibration-format", "a.md"}, 2);

  refused(write("large.jsonl", "{\"input_ids\": [1, 2, 1024]}\n"), {"large.jsonl", "line 1", "1024", "1023"});
  refused(write("negative.jsonl", "[1, 2]\n\n[3, -1]\n"), {"negative.jsonl", "line 3", "-1"});
  refused(write("real.jsonl", "[1.5]"), {"real.jsonl", "line 1", "1.5"});
  refused(write("other.jsonl", "{\"prompt\": \"a\"}"), {"other.jsonl", "line 1", "input_ids"});
  refused(write("broken.jsonl", "{\"input_ids\": [1, 2"), {"broken.jsonl", "line 1", "JSON"});
  refused(write("none.jsonl", "{\"input_ids\": []}\n"), {"none.jsonl", "no token ids"});
}

TEST_CASE("a tokenizer of another model, an unknown part of one, or none is refused", "[app]") {
  model_copy const m;
  SECTION("ids outside the embedding") {
    m.edit_json("tokenizer.json", [](gptq::json& t) {
      gptq::json token = t.at("added_tokens").back();
      token["id"] = 1024;
      token["content"] = "<|extra|>";
      t["added_tokens"].push_back(token);
    });
    auto const file = m.folder().write("c.txt", "A line <|extra|>").string();
    test::check_refused(
        test::run_app({"quantize", m.model().string(), m.output().string(), "--calibration", file, "--samples", "1"}),
        1, {"tokenizer.json", "id 1024", "vocabulary of 1024"});
    CHECK(test::names_in(m.results()).empty());
  }
  SECTION("unknown part") {
    m.edit_json("tokenizer.json", [](gptq::json& t) { t["pre_tokenizer"] = {{"type", "Klingon"}}; });
    m.check_refused({"tokenizer.json", "pre_tokenizer", "Klingon"});
  }
  SECTION("unknown model") {
    m.edit_json("tokenizer.json", [](gptq::json& t) { t["model"]["type"] = "Unigram"; });
    m.check_refused({"tokenizer.json", "model", "Unigram"});
  }
  SECTION("missing") {
    std::filesystem::remove(m.model() / "tokenizer.json");
    m.check_refused({"tokenizer.json", "No such file"});
  }
  SECTION("broken") {
    std::ofstream(m.model() / "tokenizer.json", std::ios::trunc) << "{\"version\": ";
    m.check_refused({"tokenizer.json", "JSON"});
  }
}
