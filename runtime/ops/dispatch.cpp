// Which kernels this machine runs.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace memoir_edge {
namespace {

bool runs(const Kernels& set) {
#ifdef MEMOIR_EDGE_X86
  if (&set == &avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("fma");
  if (&set == &avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  (void)set;
  return true;
}

const Kernels* const sets[] = {  // the best first
#ifdef MEMOIR_EDGE_X86
    &avx512, &avx2,
#endif
    &baseline};

const Kernels* best() {
  for (const Kernels* set : sets)
    if (runs(*set)) return set;
  return &baseline;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> set{best()};
  return set;
}

}  // namespace

const Kernels* kernels(const char* wanted) {
  if (wanted == nullptr) return current();
  for (const Kernels* set : sets) {
    if (std::strcmp(set->name, wanted) == 0 && runs(*set)) {
      current() = set;
      return set;
    }
  }
  return nullptr;
}

}  // namespace memoir_edge
