// How many threads the runtime uses; ExecuTorch's Swift interface cannot set it (1.5).

#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Set the number of threads of XNNPACK and of the kernels; returns how many there are then.
int32_t sharp_set_threads(int32_t threads);

#ifdef __cplusplus
}
#endif
