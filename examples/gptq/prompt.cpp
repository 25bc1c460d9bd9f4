#include "prompt.hpp"

#include "app.hpp"
#include "chat_option.hpp"
#include "console.hpp"
#include "text_input.hpp"

#include <gptq/core/error.hpp>
#include <gptq/run/generate.hpp>
#include <gptq/text/text_file.hpp>

#if GPTQ_WITH_TEXT
#include <gptq/text/incremental_decoder.hpp>
#include <gptq/text/tokenizer.hpp>
#endif

#include <fmt/format.h>

#include <memory>

namespace app {
namespace {

/// Token ids as they are, and the new ones as numbers.
prompt prompt_of_ids(prompt_request const& request, gptq::index_t vocabulary) {
  for (std::int32_t const id : request.ids)
    if (id < 0 || id >= vocabulary)
      throw gptq::shape_error(fmt::format("--prompt-ids: {} is outside the model's vocabulary of {}", id, vocabulary));
  auto const first = std::make_shared<bool>(true);
  return {request.ids,
          {},
          [first](std::int32_t id) {
            std::string const text = fmt::format("{}{}", *first ? "" : " ", id);
            *first = false;
            return text;
          },
          [] { return std::string(); }};
}

}  // namespace

prompt read_prompt(prompt_request const& request, std::filesystem::path const& model, gptq::index_t vocabulary) {
  std::vector<std::int32_t> const stop_ids = gptq::read_stop_ids(model);
  if (!request.ids.empty()) {
    prompt p = prompt_of_ids(request, vocabulary);
    p.stop_ids = stop_ids;
    return p;
  }
  std::string const option = request.file.empty() ? "--prompt" : "--prompt-file";
#if GPTQ_WITH_TEXT
  if (!request.file.empty()) require_text_file(option, request.file, true);
  std::string text = request.file.empty() ? request.text : gptq::read_text(request.file);
  if (text.empty()) throw usage_error(option + ": the prompt is empty");
  auto const encoder = std::make_shared<gptq::tokenizer>(gptq::tokenizer::from_file(model));
  prompt p;
  p.stop_ids = stop_ids;
  if (request.chat) {
    auto const format = conversation_format(request.chat_format, model, *encoder);
    text = gptq::format_chat(format, {{gptq::chat_role::user, text}}) + gptq::answer_opening(format.kind);
    p.stop_ids.push_back(*encoder->token_to_id(gptq::answer_end(format.kind)));
  } else {
    p.ids = encoder->prefix();
  }
  gptq::encode_report report;
  auto const ids = encoder->encode(text, false, &report);
  p.ids.insert(p.ids.end(), ids.begin(), ids.end());
  for (std::string const& note : encoding_notes(option, report)) warn(note);
  require_vocabulary(model, p.ids, vocabulary);
  auto const decoder = std::make_shared<gptq::incremental_decoder>(*encoder, p.ids);
  p.next = [encoder, decoder](std::int32_t id) { return decoder->next(id); };
  p.finish = [encoder, decoder] { return decoder->finish(); };
  return p;
#else
  throw gptq::error(option +
                    ": this gptq was built without tokenizers (PCRE2, utf8proc); --prompt-ids takes token ids");
#endif
}

}  // namespace app
