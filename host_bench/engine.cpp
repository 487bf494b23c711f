// The C interface of engine.h around a Model.

#include "engine.h"

#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"
#include "model.h"

struct sharp_engine {
  int32_t threads;
  sharp::Model model;
};

namespace {

// Run work; return false and copy the message if it fails.
template <typename Work>
bool succeeds(char* error, size_t error_bytes, const Work& work) {
  try {
    work();
    return true;
  } catch (const std::exception& failure) {
    std::snprintf(error, error_bytes, "%s", failure.what());
    return false;
  }
}

}  // namespace

const char* sharp_engine_runtime(void) { return SHARP_RUNTIME; }

sharp_engine* sharp_engine_open(const char* pte, int32_t threads, int32_t weight_cache, const char* packed_cache,
                                char* error, size_t error_bytes) {
  static std::once_flag started;
  std::call_once(started, sharp::start_runtime);
  std::unique_ptr<sharp_engine> engine;
  const bool loaded = succeeds(error, error_bytes, [&] {
    sharp::check_complete(pte);
    sharp::ModelOptions options;
    options.pte = pte;
    options.weight_cache = weight_cache != 0;
    options.packed_cache = packed_cache == nullptr ? "" : packed_cache;
    engine.reset(new sharp_engine{threads, sharp::Model(std::move(options))});
    const auto guard = sharp::set_threads(threads);
    engine->model.load();
    engine->model.read_metadata();
  });
  return loaded ? engine.release() : nullptr;
}

int32_t sharp_engine_step(sharp_engine* engine, const int64_t* tokens, int64_t count, int64_t position, char* error,
                          size_t error_bytes) {
  const bool done = succeeds(error, error_bytes, [&] {
    engine->model.check_fits("step", position, count);
    const auto guard = sharp::threads_guard(engine->threads);
    engine->model.step(std::vector<int64_t>(tokens, tokens + count), position);
  });
  return done ? 0 : -1;
}

const float* sharp_engine_logits(const sharp_engine* engine) { return engine->model.logits(); }
int64_t sharp_engine_vocabulary(const sharp_engine* engine) { return static_cast<int64_t>(engine->model.vocabulary()); }
int64_t sharp_engine_length(const sharp_engine* engine) { return engine->model.length(); }
void sharp_engine_close(sharp_engine* engine) { delete engine; }

void sharp_engine_memory(int64_t* anonymous, int64_t* file, int64_t* peak, int64_t* footprint) {
  const auto memory = sharp::memory_now();
  *anonymous = memory.anonymous;
  *file = memory.file;
  *peak = memory.peak;
  *footprint = memory.footprint;
}
