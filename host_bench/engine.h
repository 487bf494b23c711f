// The model as other languages call it: plain C, no exception, no memory that the caller must free but the engine.
//
//     sharp_engine* engine = sharp_engine_open("model.pte", 1, 1, "model.packed", error, sizeof error);
//     sharp_engine_step(engine, tokens, count, 0, error, sizeof error);
//     const float* logits = sharp_engine_logits(engine);
//     sharp_engine_close(engine);
//
// Kotlin reaches it through JNI and Swift directly, so that the phones' benchmark code runs a real .pte on a computer.
// One engine at a time and one thread of the caller's.

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sharp_engine sharp_engine;

// The runtime that it was built against: "executorch 1.5.1".
const char* sharp_engine_runtime(void);

// Load and init. packed_cache: where packed weights are kept between launches, or NULL. NULL on failure, and then
// `error` holds a line for people.
sharp_engine* sharp_engine_open(const char* pte, int32_t threads, int32_t weight_cache, const char* packed_cache,
                                char* error, size_t error_bytes);

// Run `count` tokens from a position on. 0, or -1 with a line in `error`.
int32_t sharp_engine_step(sharp_engine* engine, const int64_t* tokens, int64_t count, int64_t position, char* error,
                          size_t error_bytes);

// What the latest step predicts, float32 [vocabulary]; valid until the next step.
const float* sharp_engine_logits(const sharp_engine* engine);
int64_t sharp_engine_vocabulary(const sharp_engine* engine);

// Positions in the KV cache.
int64_t sharp_engine_length(const sharp_engine* engine);

void sharp_engine_close(sharp_engine* engine);

// Bytes of this process: its own, pages of files, and the most that both together have been.
void sharp_engine_memory(int64_t* anonymous, int64_t* file, int64_t* peak);

#ifdef __cplusplus
}
#endif
