#include "Threads.h"

#include <cstddef>

// The package has the thread pool in a library, but not its header (ExecuTorch 1.5); here is what is used of it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

int32_t sharp_set_threads(int32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) return 0;
  pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  return static_cast<int32_t>(pool->get_thread_count());
}
