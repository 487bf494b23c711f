// The C interface of a model for other languages: no exceptions, and the caller frees only the engine.
//
//     sharp_engine* engine = sharp_engine_open("model.pte", 1, 1, "model.packed", error, sizeof error);
//     sharp_engine_step(engine, tokens, count, 0, error, sizeof error);
//     const float* logits = sharp_engine_logits(engine);
//     sharp_engine_close(engine);
//
// Kotlin calls it through JNI, and Swift directly, so that the phones' benchmark code runs a real .pte on a computer.
// Use one engine at a time, from one thread.

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sharp_engine sharp_engine;

// The runtime of this build: "executorch 1.5.1".
const char* sharp_engine_runtime(void);

// Load and init. packed_cache: the file that stores packed weights between launches, or NULL. Returns NULL on failure,
// with a message in `error`.
sharp_engine* sharp_engine_open(const char* pte, int32_t threads, int32_t weight_cache, const char* packed_cache,
                                char* error, size_t error_bytes);

// Run `count` tokens, starting at a position. Returns 0, or -1 with a message in `error`.
int32_t sharp_engine_step(sharp_engine* engine, const int64_t* tokens, int64_t count, int64_t position, char* error,
                          size_t error_bytes);

// The logits of the last step, float32 [vocabulary]; valid until the next step.
const float* sharp_engine_logits(const sharp_engine* engine);
int64_t sharp_engine_vocabulary(const sharp_engine* engine);

// Positions in the KV cache.
int64_t sharp_engine_length(const sharp_engine* engine);

void sharp_engine_close(sharp_engine* engine);

// Bytes of this process: resident anonymous memory and pages of files, the peak of their sum, and the proportional set
// size, 0 if the system does not report it.
void sharp_engine_memory(int64_t* anonymous, int64_t* file, int64_t* peak, int64_t* footprint);

#ifdef __cplusplus
}
#endif
