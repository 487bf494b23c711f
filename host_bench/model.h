// An exported language model in memory: load it, run tokens at a position, read the next token's logits.
//
//     Model model({.pte = "model.pte"});
//     model.load();
//     model.step({1, 2, 3}, 0);          // a prompt
//     model.step({model.best()}, 3);     // the token after it
//
// Plain C++17 on the libraries of the ExecuTorch wheel; the same source is compiled for x86-64 and for aarch64.

#pragma once

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "files.h"
#include "json.h"

// The wheel of ExecuTorch 1.5.1 has the thread pool's library but not its header; these are the declarations in use.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace sharp {

using executorch::etdump::ETDumpGen;
using executorch::extension::make_tensor_ptr;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;

// ExecuTorch logs a line for every operator without a temporary allocator. Its log matters only after a failure.
inline std::vector<std::string> runtime_log;

inline void keep_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                     size_t) {
  if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) runtime_log.emplace_back(message);
  if (level == et_pal_log_level_t::kFatal) std::cerr << message << std::endl;  // the runtime aborts next
}

[[noreturn]] inline void fail_with_log(const std::string& problem) {
  std::string log, missing;
  for (const auto& line : runtime_log) {
    log += "\n  " + line;
    if (line.find("llama::") != std::string::npos) missing = line;
  }
  if (!missing.empty()) {
    fail(problem + ": it needs operators that a plain C++ program does not have (" + missing +
         "); export with lower.attention: portable");
  }
  fail(problem + log);
}

// Call this once per process, before the first model.
inline void start_runtime() {
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_log, __FILE__));
  executorch::runtime::runtime_init();
}

// One thread needs no pool: without one no other thread spins, and instruction counts repeat exactly.
using ThreadsGuard = std::optional<executorch::extension::threadpool::NoThreadPoolGuard>;

// Disable the pool during the guard's lifetime if there is one thread.
inline ThreadsGuard threads_guard(int64_t threads) {
  ThreadsGuard guard;
  if (threads == 1) guard.emplace();
  return guard;
}

inline ThreadsGuard set_threads(int64_t threads) {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  return threads_guard(threads);
}

inline std::string value_json(const EValue& value) {
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

// XNNPACK copies a path into a fixed array and would truncate a longer one.
inline constexpr size_t kLongestPath = executorch::runtime::kMaxOptionValueLength - 1;

// A model's file and its load options.
struct ModelOptions {
  std::string pte;
  bool weight_cache = true;
  std::string packed_cache;  // the file that stores packed weights between launches; none if empty
  std::string etdump;        // the file for the trace of the forwards
};

class Model {
 public:
  explicit Model(ModelOptions options) : settings_(std::move(options)) {
    options_.set_option("weight_cache_enabled", settings_.weight_cache);
    if (!settings_.packed_cache.empty()) {
      if (settings_.packed_cache.size() > kLongestPath) {
        fail(settings_.packed_cache + ": XNNPACK takes paths of " + std::to_string(kLongestPath) +
             " bytes; choose a shorter one");
      }
      options_.set_option("packed_cache_path", settings_.packed_cache.c_str());
    }
    map_.set_options("XnnpackBackend", options_.view());
  }

  // Load and init: after this every delegate has its packed weights.
  void load() {
    runtime_log.clear();  // drop the log of an earlier model in this process
    std::unique_ptr<ETDumpGen> tracer;
    if (!settings_.etdump.empty()) tracer = std::make_unique<ETDumpGen>();
    module_ = std::make_unique<Module>(settings_.pte, Module::LoadMode::Mmap, std::move(tracer));
    if (module_->load(map_) != Error::Ok) {
      fail_with_log(settings_.pte + ": is not a whole program that " SHARP_RUNTIME " reads; export it again");
    }
    if (module_->load_method("forward", nullptr, nullptr, &map_) != Error::Ok) {
      fail_with_log(settings_.pte + ": cannot be loaded");
    }
  }

  // Read the constant methods: get_max_seq_len and others. Several outputs, and always get_eos_ids, become a list.
  void read_metadata() {
    const auto names = module_->method_names();
    for (const auto& name : *names) {
      if (name == "forward" || module_->method_meta(name)->num_inputs() != 0) continue;
      const auto values = module_->execute(name);
      if (!values.ok()) fail_with_log(settings_.pte + ": its method " + name + " fails");
      std::string text;
      for (const auto& value : *values) {
        text += (text.empty() ? "" : ", ") + value_json(value);
        if (!value.isInt()) continue;
        if (name == "get_max_context_len") length_ = value.toInt();
        if (name == "get_max_seq_len") chunk_ = value.toInt();
        if (name == "get_eos_ids") stop_.push_back(value.toInt());
      }
      metadata_[name] = values->size() == 1 && name != "get_eos_ids" ? text : "[" + text + "]";
    }
    if (length_ == 0 || module_->method_meta("forward")->num_inputs() != 2) {
      fail(settings_.pte + ": is no language model's program: it has no get_max_context_len, or its forward does "
           "not take tokens and a position");
    }
    chunk_ = std::min(chunk_ == 0 ? length_ : chunk_, length_ - 1);
  }

  // Refuse tokens beyond the cache before anything is timed.
  void check_fits(const char* what, int64_t first, int64_t count) const {
    if (first + count > length_) {
      fail(std::string(what) + ": " + std::to_string(count) + " tokens from position " + std::to_string(first) +
           " do not fit in this export's cache of " + std::to_string(length_) +
           "; take fewer, or export with a larger max_length");
    }
  }

  // Run tokens at a position, in chunks that the program accepts; `logits()` has the prediction until the next step.
  void step(std::vector<int64_t> tokens, int64_t position) {
    const auto count = static_cast<int64_t>(tokens.size());
    if (count <= chunk_) return forward(std::move(tokens), position);
    for (int64_t start = 0; start < count; start += chunk_) {
      const auto end = std::min(start + chunk_, count);
      forward({tokens.begin() + start, tokens.begin() + end}, position + start);
    }
  }

  const float* logits() const { return last_; }
  size_t vocabulary() const { return vocabulary_; }
  int64_t best() const { return std::max_element(last_, last_ + vocabulary_) - last_; }
  int64_t length() const { return length_; }

  // The tokens with the largest logits, in descending order; for equal logits the smaller token comes first.
  std::vector<int64_t> likeliest(size_t count) const {
    std::vector<int64_t> tokens(vocabulary_);
    std::iota(tokens.begin(), tokens.end(), 0);
    count = std::min(count, vocabulary_);
    const auto before = [&](int64_t a, int64_t b) { return last_[a] != last_[b] ? last_[a] > last_[b] : a < b; };
    std::partial_sort(tokens.begin(), tokens.begin() + count, tokens.end(), before);
    tokens.resize(count);
    return tokens;
  }

  bool ends(int64_t token) const { return std::find(stop_.begin(), stop_.end(), token) != stop_.end(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Drop the trace so far, so that the dump has only later events.
  void restart_trace() {
    if (!settings_.etdump.empty()) static_cast<ETDumpGen*>(module_->event_tracer())->reset();
  }

  void write_trace() {
    if (settings_.etdump.empty()) return;
    const auto dump = static_cast<ETDumpGen*>(module_->event_tracer())->get_etdump_data();
    write_file(settings_.etdump, dump.buf, dump.size);
    std::free(dump.buf);
  }

 private:
  void forward(std::vector<int64_t> tokens, int64_t position) {
    const auto count = static_cast<int32_t>(tokens.size());
    auto input = make_tensor_ptr({1, count}, std::move(tokens));
    auto start = make_tensor_ptr({1}, std::vector<int64_t>{position});
    auto output = module_->forward({EValue(input), EValue(start)});
    if (!output.ok()) fail_with_log(settings_.pte + ": a step fails");
    const auto& tensor = output->at(0).toTensor();
    if (tensor.scalar_type() != executorch::aten::ScalarType::Float) {
      fail(settings_.pte + ": its logits are not float32");
    }
    vocabulary_ = static_cast<size_t>(tensor.size(tensor.dim() - 1));
    last_ = tensor.const_data_ptr<float>() + tensor.numel() - vocabulary_;
  }

  const ModelOptions settings_;
  executorch::runtime::BackendOptions<2> options_;
  executorch::runtime::LoadBackendOptionsMap map_;
  std::unique_ptr<Module> module_;
  std::map<std::string, std::string> metadata_;
  std::vector<int64_t> stop_;
  int64_t length_ = 0, chunk_ = 0;
  const float* last_ = nullptr;
  size_t vocabulary_ = 0;
};

// Greedy tokens, starting with the current prediction; each one but the last is fed to the model.
inline std::vector<int64_t> greedy(Model& model, int64_t position, int64_t count, bool stops) {
  std::vector<int64_t> tokens;
  while (static_cast<int64_t>(tokens.size()) < count) {
    tokens.push_back(model.best());
    if (static_cast<int64_t>(tokens.size()) == count || (stops && model.ends(tokens.back()))) break;
    model.step({tokens.back()}, position++);
  }
  return tokens;
}

}  // namespace sharp
