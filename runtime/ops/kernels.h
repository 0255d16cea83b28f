// The inner loops, once for each instruction set.
//
// kernels.cpp is compiled several times; the table that fits the machine is chosen when the library
// is loaded.
//
// They know nothing of ONNX Runtime and check nothing: callers have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memoir_edge {

// The prefix layout of a bank (see prefix.h): in each block of keys, feature by feature, one bit
// for each key.
constexpr size_t BLOCK_BYTES = 2048;  // of one feature in one block, at most
constexpr size_t PLANES = 16;         // bits of a count, at most
constexpr size_t MAX_PREFIX = 65528;  // features that a prefix may hold, for that reason

// Bit p of key i's count is bit i of planes[p], bit order little; planes from `used` on hold nothing.
struct alignas(64) Counts {
  uint8_t planes[PLANES][BLOCK_BYTES];
  size_t used;
};

struct Kernels {
  const char* name;

  // Ones that a and b share; n bytes each, at any address.
  uint32_t (*shared_ones)(const uint8_t* a, const uint8_t* b, size_t n);

  // The best of `rows` keys of n bytes each, the last among equals.
  void (*best_key)(const uint8_t* keys, size_t rows, size_t n, const uint8_t* query,
                   uint32_t* count, size_t* row);

  // Counts, for every key of a block, its ones among the n features; each takes `width` bytes of the
  // block, a multiple of 64.
  void (*count_block)(const uint8_t* block, size_t width, const uint32_t* features, size_t n,
                      Counts* counts);

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

// What this machine runs; `wanted` chooses another set by name, for tests (null: leave it).
// Returns null where the machine lacks it.
const Kernels* kernels(const char* wanted = nullptr);

}  // namespace memoir_edge
