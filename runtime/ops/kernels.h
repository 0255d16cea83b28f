// The inner loops, once for each instruction set.
//
// kernels.cpp is compiled once per set; the best set that the CPU supports is chosen when the
// library is loaded (function multiversioning by hand).
//
// They know nothing of ONNX Runtime and do not check their arguments: the callers have done so.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memoir_edge {

// The bit-sliced layout of a bank's prefix (see prefix.h): in each block of keys, feature by
// feature, one bit per key.
constexpr size_t BLOCK_BYTES = 8192;  // most bytes of one feature in one block
constexpr size_t PLANES = 16;         // most bits of a count
constexpr size_t MAX_PREFIX = 65528;  // most features in a prefix, so that a count fits

// Bit-sliced counters: bit p of key i's count is bit i of planes[p] (little bit order). Planes from
// `used` on are not initialised.
struct alignas(64) Counts {
  uint8_t planes[PLANES][BLOCK_BYTES + 64];  // or else all would compete for the same cache lines
  size_t used = 0;
  size_t counted = 0;  // features so far
};

struct Kernels {
  const char* name;

  // popcount(a & b) of n bytes each, at any address.
  uint32_t (*shared_ones)(const uint8_t* a, const uint8_t* b, size_t n);

  // The key with the most ones in common with the query, of `rows` keys of n bytes each; the last
  // one among equals.
  void (*best_key)(const uint8_t* keys, size_t rows, size_t n, const uint8_t* query,
                   uint32_t* count, size_t* row);

  // Adds for every key of a block how many of the n features it has: a Harley-Seal counter over
  // bit-sliced data. A feature takes `width` bytes of the block, a multiple of 64.
  void (*count_block)(const uint8_t* block, size_t width, const uint32_t* features, size_t n,
                      Counts* counts);

  // Marks the keys of a block (of `width` bytes, as above) whose count is at least that: [width / 8]
  // words. Returns their number.
  size_t (*at_least)(const Counts* counts, size_t width, uint32_t least, uint64_t* which);

  // Leaves of the marked keys those with the highest count, and returns it.
  uint32_t (*highest)(const Counts* counts, size_t width, uint64_t* which);

  // sum[i] += a[i] for n features of one token, in float32; `type` is a's element type.
  void (*add_token)(const void* a, int type, size_t n, float* sum);

  // out[t][j] = sum over i of x[t][i] * values[rows[i]][j], for `tokens` tokens and the columns
  // [begin, end) of `width`. x is [tokens][n], values are [..][width] of the given type.
  void (*multiply)(const float* x, size_t tokens, size_t n, const int32_t* rows,
                   const void* values, int type, size_t width, size_t begin, size_t end, float* out);
};

extern const Kernels baseline;  // what every machine of this architecture has
#ifdef MEMOIR_EDGE_X86
extern const Kernels avx2;
extern const Kernels avx512;
#endif

// The set in use. `wanted` switches to another one by name, for tests; null leaves it as it is.
// Returns null where the CPU does not support the wanted one.
const Kernels* kernels(const char* wanted = nullptr);

}  // namespace memoir_edge
