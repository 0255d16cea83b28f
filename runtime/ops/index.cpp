// See index.h.
#include "index.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "exported.h"
#include "kernels.h"

namespace memoir_edge {
namespace {

std::mutex exchange;
std::map<const uint8_t*, std::shared_ptr<const Index>>& indexed() {
  static std::map<const uint8_t*, std::shared_ptr<const Index>> banks;
  return banks;
}

// In huge pages where the system has them: a search strides through all of a prefix, and would miss
// the TLB at every feature.
uint8_t* allocate(size_t n) {
  constexpr size_t PAGE = 2 << 20;
  n = (n + PAGE - 1) / PAGE * PAGE;
  void* bytes = std::aligned_alloc(PAGE, n);
#ifdef MADV_HUGEPAGE
  if (bytes != nullptr) madvise(bytes, n, MADV_HUGEPAGE);
#endif
  return static_cast<uint8_t*>(bytes);
}

}  // namespace

std::shared_ptr<const Index> index_of(const uint8_t* bank, size_t R, size_t W) {
  std::lock_guard<std::mutex> lock(exchange);
  const auto found = indexed().find(bank);
  if (found == indexed().end() || found->second->bank.R != R ||
      found->second->bank.W != W)
    return nullptr;
  return found->second;
}

}  // namespace memoir_edge

using memoir_edge::Index;

int memoir_edge_index(const uint8_t* bank, uint64_t R, uint64_t W, uint64_t n,
                      const float* thresholds, uint64_t T) {
  n = std::min<uint64_t>({n, memoir_edge::MAX_PREFIX, W * 8}) / 8 * 8;
  if (bank == nullptr || R == 0 || n == 0) return 1;
  try {
    Index index{{bank, R, W, n, nullptr, nullptr}, {}, {}, thresholds,
                memoir_edge::lowest_of(thresholds, T)};
    index.rows = memoir_edge::in_order(index.bank);
    index.bank.rows = index.rows.data();
    index.prefix.reset(memoir_edge::allocate(index.bank.prefix_bytes()));
    if (!index.prefix) return 1;
    memoir_edge::make_prefix(index.bank, index.prefix.get());
    index.bank.prefix = index.prefix.get();
    auto made = std::make_shared<const Index>(std::move(index));
    std::lock_guard<std::mutex> lock(memoir_edge::exchange);
    memoir_edge::indexed()[bank] = std::move(made);
    return 0;
  } catch (...) {  // out of memory: the bank is scanned, as one without an index is
    return 1;
  }
}

void memoir_edge_forget(const uint8_t* bank) {
  std::lock_guard<std::mutex> lock(memoir_edge::exchange);
  memoir_edge::indexed().erase(bank);
}

uint32_t memoir_edge_least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen) {
  try {
    return memoir_edge::least_in_prefix(k, shared, seen, memoir_edge::MISS);
  } catch (...) {  // out of memory: 0 filters no key out
    return 0;
  }
}
