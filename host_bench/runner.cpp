// One launch of an exported language model: load it, run it, print what it took as one JSON object.
//
//     sharp-runner MODEL.pte [--threads N] [--prompt 1,2,3] ...
//
//     load + init ─► the prompt ─► warm-ups ─► forwards ─► prefills ─► decodes ─► greedy tokens
//          │             │
//          └─ memory     └─ memory, logits
//
// A forward is one token at the position after the prompt, as in a chat. A process is one launch, so whoever wants
// several of them, with or without what an earlier one left on disk, starts this several times.
//
// Plain C++17 on the libraries of the ExecuTorch wheel; the same source is compiled for x86-64 and for aarch64. JSON
// goes to standard output, all else to standard error; on any failure there is a line there, no JSON, and status 1.

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "arguments.h"

// The wheel has the thread pool in a library and not in its headers (ExecuTorch 1.5.1); here is what is used of it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::etdump::ETDumpGen;
using executorch::extension::make_tensor_ptr;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using sharp::Arguments;
using sharp::fail;

// --- what the runtime says -----------------------------------------------------------------------------------------

// ExecuTorch logs a line for every operator without a temporary allocator; its words are of use only when it fails.
std::vector<std::string> runtime_log;

void keep_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message, size_t) {
  if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) runtime_log.emplace_back(message);
  if (level == et_pal_log_level_t::kFatal) std::cerr << message << std::endl;  // the runtime aborts after it
}

[[noreturn]] void fail_with_log(const std::string& problem) {
  std::string said, missing;
  for (const auto& line : runtime_log) {
    said += "\n  " + line;
    if (line.find("llama::") != std::string::npos) missing = line;
  }
  if (!missing.empty()) {
    fail(problem + ": it needs operators that a plain C++ program does not have (" + missing +
         "); export with lower.attention: portable");
  }
  fail(problem + said);
}

// --- time, memory, markers -----------------------------------------------------------------------------------------

using Nanoseconds = int64_t;

Nanoseconds now() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

// Bytes by their names in /proc/self/status, which counts in kB.
std::map<std::string, int64_t> memory_status() {
  std::map<std::string, int64_t> found;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream fields(line);
    std::string name;
    int64_t kilobytes = 0;
    if (fields >> name >> kilobytes) found[name.substr(0, name.size() - 1)] = kilobytes * 1024;
  }
  return found;
}

std::string memory_json(const std::map<std::string, int64_t>& status) {
  const auto of = [&](const char* name) { return status.count(name) ? status.at(name) : 0; };
  return "{\"anonymous\": " + std::to_string(of("RssAnon")) +
         ", \"file\": " + std::to_string(of("RssFile") + of("RssShmem")) + "}";
}

// Two instructions that do nothing and that nothing else executes; an emulator's plugin counts between them.
void mark_begin() {
#if defined(__aarch64__)
  asm volatile("hint #0x68" ::: "memory");
#endif
}

void mark_end() {
#if defined(__aarch64__)
  asm volatile("hint #0x69" ::: "memory");
#endif
}

template <typename Work>
Nanoseconds timed(bool marked, const Work& work) {
  const Nanoseconds start = now();
  if (marked) mark_begin();
  work();
  if (marked) mark_end();
  return now() - start;
}

// --- JSON ----------------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const unsigned char c : text) {
    char escaped[8];
    if (c == '"' || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c < 0x20) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

template <typename Numbers>
std::string list(const Numbers& numbers) {
  std::string out = "[";
  for (const auto number : numbers) out += (out.size() > 1 ? ", " : "") + std::to_string(number);
  return out + "]";
}

std::string value_json(const EValue& value) {
  if (value.isInt()) return std::to_string(value.toInt());
  if (value.isBool()) return value.toBool() ? "true" : "false";
  if (value.isString()) return quoted(std::string(value.toString()));
  if (value.isDouble()) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value.toDouble());
    return text;
  }
  return "null";
}

// --- the model -----------------------------------------------------------------------------------------------------

// XNNPACK copies a path into a fixed array and would cut a longer one short.
constexpr size_t kLongestPath = executorch::runtime::kMaxOptionValueLength - 1;

class Model {
 public:
  explicit Model(const Arguments& arguments) : arguments_(arguments) {
    options_.set_option("weight_cache_enabled", arguments.weight_cache);
    if (!arguments.packed_cache.empty()) {
      if (arguments.packed_cache.size() > kLongestPath) {
        fail(arguments.packed_cache + ": XNNPACK takes paths of " + std::to_string(kLongestPath) +
             " bytes; choose a shorter one");
      }
      options_.set_option("packed_cache_path", arguments.packed_cache.c_str());
      options_.set_option("save_weight_cache_on_disk", true);
    }
    map_.set_options("XnnpackBackend", options_.view());
  }

  // Load and init: after this every delegate has its packed weights.
  void load() {
    std::unique_ptr<ETDumpGen> tracer;
    if (!arguments_.etdump.empty()) tracer = std::make_unique<ETDumpGen>();
    module_ = std::make_unique<Module>(arguments_.model, Module::LoadMode::Mmap, std::move(tracer));
    if (module_->load(map_) != Error::Ok) {
      fail_with_log(arguments_.model + ": is not a whole program that " SHARP_RUNTIME " reads; export it again");
    }
    if (module_->load_method("forward", nullptr, nullptr, &map_) != Error::Ok) {
      fail_with_log(arguments_.model + ": cannot be loaded");
    }
  }

  // The constant methods: get_max_seq_len and so on. Several outputs are a list, and so are the tokens that end a text.
  void read_metadata() {
    const auto names = module_->method_names();
    for (const auto& name : *names) {
      if (name == "forward" || module_->method_meta(name)->num_inputs() != 0) continue;
      const auto values = module_->execute(name);
      if (!values.ok()) fail_with_log(arguments_.model + ": its method " + name + " fails");
      std::string text;
      for (const auto& value : *values) {
        text += (text.empty() ? "" : ", ") + value_json(value);
        if (!value.isInt()) continue;
        if (name == "get_max_context_len") length_ = value.toInt();
        if (name == "get_eos_ids") stop_.push_back(value.toInt());
      }
      metadata_[name] = values->size() == 1 && name != "get_eos_ids" ? text : "[" + text + "]";
    }
    if (length_ == 0 || module_->method_meta("forward")->num_inputs() != 2) {
      fail(arguments_.model + ": is no language model's program: it has no get_max_context_len, or its forward does "
           "not take tokens and a position");
    }
  }

  // Refuses what goes beyond the cache before anything is timed.
  void check_fits(const char* what, int64_t first, int64_t count) const {
    if (first + count > length_ || count >= length_) {
      fail(std::string(what) + ": " + std::to_string(count) + " tokens from position " + std::to_string(first) +
           " do not fit in this export's cache of " + std::to_string(length_) +
           " (of which one step takes one less); take fewer, or export with a larger max_length");
    }
  }

  // Runs tokens from a position on; what it predicts is in `logits()` until the next step.
  void step(std::vector<int64_t> tokens, int64_t position) {
    const auto count = static_cast<int32_t>(tokens.size());
    auto input = make_tensor_ptr({1, count}, std::move(tokens));
    auto start = make_tensor_ptr({1}, std::vector<int64_t>{position});
    auto output = module_->forward({EValue(input), EValue(start)});
    if (!output.ok()) fail_with_log(arguments_.model + ": a step fails");
    const auto& tensor = output->at(0).toTensor();
    if (tensor.scalar_type() != executorch::aten::ScalarType::Float) {
      fail(arguments_.model + ": its logits are not float32");
    }
    vocabulary_ = static_cast<size_t>(tensor.size(tensor.dim() - 1));
    last_ = tensor.const_data_ptr<float>() + tensor.numel() - vocabulary_;
  }

  const float* logits() const { return last_; }
  size_t vocabulary() const { return vocabulary_; }
  int64_t best() const { return std::max_element(last_, last_ + vocabulary_) - last_; }
  bool ends(int64_t token) const { return std::find(stop_.begin(), stop_.end(), token) != stop_.end(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Drops what was traced so far, so that the dump holds only what follows.
  void restart_trace() {
    if (!arguments_.etdump.empty()) static_cast<ETDumpGen*>(module_->event_tracer())->reset();
  }

  void write_trace() {
    if (arguments_.etdump.empty()) return;
    const auto dump = static_cast<ETDumpGen*>(module_->event_tracer())->get_etdump_data();
    sharp::write_file(arguments_.etdump, dump.buf, dump.size);
    std::free(dump.buf);
  }

 private:
  const Arguments& arguments_;
  executorch::runtime::BackendOptions<3> options_;
  executorch::runtime::LoadBackendOptionsMap map_;
  std::unique_ptr<Module> module_;
  std::map<std::string, std::string> metadata_;
  std::vector<int64_t> stop_;
  int64_t length_ = 0;
  const float* last_ = nullptr;
  size_t vocabulary_ = 0;
};

// --- the launch ----------------------------------------------------------------------------------------------------

// One thread works without a pool: no other thread waits in a loop, and instructions count the same every time.
std::optional<executorch::extension::threadpool::NoThreadPoolGuard> set_threads(int64_t threads) {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  std::optional<executorch::extension::threadpool::NoThreadPoolGuard> guard;
  if (threads == 1) guard.emplace();
  return guard;
}

// `count` tokens to feed: the prompt over and over.
std::vector<int64_t> repeated(const std::vector<int64_t>& prompt, int64_t count) {
  std::vector<int64_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = prompt[i % prompt.size()];
  return tokens;
}

// The likeliest tokens one after the other, from the prediction that stands; each of them but the last is fed.
std::vector<int64_t> greedy(Model& model, int64_t position, int64_t count, bool stops) {
  std::vector<int64_t> tokens;
  while (static_cast<int64_t>(tokens.size()) < count) {
    tokens.push_back(model.best());
    if (static_cast<int64_t>(tokens.size()) == count || (stops && model.ends(tokens.back()))) break;
    model.step({tokens.back()}, position++);
  }
  return tokens;
}

std::string run(const Arguments& arguments) {
  const auto guard = set_threads(arguments.threads);
  const auto& prompt = arguments.prompt;
  const auto position = static_cast<int64_t>(prompt.size());
  Model model(arguments);

  const Nanoseconds load = timed(arguments.markers == "load", [&] { model.load(); });
  const auto after_load = memory_status();
  model.read_metadata();
  model.check_fits("--prompt", 0, position);
  model.check_fits("--forwards", position, arguments.warmups + arguments.forwards ? 1 : 0);
  model.check_fits("--prefill", 0, arguments.prefill);
  model.check_fits("--decode", position, arguments.decode);
  model.check_fits("--tokens", position, std::max<int64_t>(0, arguments.tokens - 1));

  model.step(prompt, 0);
  const auto after_forward = memory_status();
  if (!arguments.logits.empty()) {
    sharp::write_file(arguments.logits, model.logits(), model.vocabulary() * sizeof(float));
  }
  const int64_t next = model.best();
  std::vector<Nanoseconds> forwards, prefills, decodes;
  for (int64_t i = 0; i < arguments.warmups; ++i) model.step({next}, position);
  model.restart_trace();
  for (int64_t i = 0; i < arguments.forwards; ++i) {
    forwards.push_back(timed(arguments.markers == "forward", [&] { model.step({next}, position); }));
  }
  model.write_trace();
  const auto passage = repeated(prompt, arguments.prefill);
  for (int64_t i = 0; i < arguments.prefill_runs; ++i) {
    prefills.push_back(timed(arguments.markers == "prefill", [&] { model.step(passage, 0); }));
  }
  for (int64_t i = 0; i < arguments.decode_runs; ++i) {
    model.step(prompt, 0);
    // One more than is fed, since the prompt's own step gave the first.
    decodes.push_back(timed(false, [&] { greedy(model, position, arguments.decode + 1, false); }));
  }
  std::vector<int64_t> tokens;
  if (arguments.tokens > 0) {
    model.step(prompt, 0);
    tokens = greedy(model, position, arguments.tokens, true);
  }

  std::ostringstream json;
  json << "{\n \"runtime\": " << quoted(SHARP_RUNTIME) << ",\n \"threads\": " << arguments.threads
       << ",\n \"weight_cache\": " << (arguments.weight_cache ? "true" : "false") << ",\n \"packed_cache\": "
       << (arguments.packed_cache.empty() ? "null" : quoted(arguments.packed_cache)) << ",\n \"metadata\": {";
  const char* separator = "";
  for (const auto& [name, value] : model.metadata()) {
    json << separator << quoted(name) << ": " << value;
    separator = ", ";
  }
  json << "},\n \"load_ns\": " << load << ",\n \"forward_ns\": " << list(forwards)
       << ",\n \"prefill_tokens\": " << arguments.prefill << ",\n \"prefill_ns\": " << list(prefills)
       << ",\n \"decode_tokens\": " << arguments.decode << ",\n \"decode_ns\": " << list(decodes)
       << ",\n \"memory_after_load\": " << memory_json(after_load)
       << ",\n \"memory_after_forward\": " << memory_json(after_forward)
       << ",\n \"peak_bytes\": " << memory_status()["VmHWM"] << ",\n \"tokens\": " << list(tokens) << "\n}\n";
  return json.str();
}

}  // namespace

int main(int argc, char** argv) {
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_log, __FILE__));
  executorch::runtime::runtime_init();
  const auto arguments = sharp::parse(argc, argv);
  sharp::check_whole(arguments.model);
  std::cout << run(arguments) << std::flush;
  return 0;
}
