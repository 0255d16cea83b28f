// The inner loops in one instruction set, KERNELS; see kernels.h.
//
// Written with the vector extensions of GCC and Clang, which each build lowers to its own
// instructions; only the popcount is written once per set. No function of the standard library is
// used here: the linker keeps one copy of an inline function, and that copy could come from the
// AVX-512 build.
#include "kernels.h"

#include "ort_abi.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace memoir_edge {
namespace {

#define INLINE inline __attribute__((always_inline))

template <class T>
INLINE T load(const void* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
INLINE void store(void* to, T value) {
  __builtin_memcpy(to, &value, sizeof value);
}

// --- Popcount of a & b ---------------------------------------------------------------------------

INLINE uint32_t shared_ones_bytewise(const uint8_t* a, const uint8_t* b, size_t n) {
  uint64_t total = 0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    total += __builtin_popcountll(load<uint64_t>(a + i) & load<uint64_t>(b + i));
  for (; i < n; i++) total += __builtin_popcount(a[i] & b[i]);
  return static_cast<uint32_t>(total);
}

#if defined(__AVX512VPOPCNTDQ__)

INLINE uint32_t shared_ones_inline(const uint8_t* a, const uint8_t* b, size_t n) {
  __m512i total0 = _mm512_setzero_si512(), total1 = total0;
  size_t i = 0;
  for (; i + 128 <= n; i += 128) {
    __m512i low = _mm512_and_si512(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
    __m512i high = _mm512_and_si512(_mm512_loadu_si512(a + i + 64), _mm512_loadu_si512(b + i + 64));
    total0 = _mm512_add_epi64(total0, _mm512_popcnt_epi64(low));
    total1 = _mm512_add_epi64(total1, _mm512_popcnt_epi64(high));
  }
  for (; i < n; i += 64) {  // a masked load does not touch the bytes beyond the end
    __mmask64 there = n - i >= 64 ? ~0ull : (1ull << (n - i)) - 1;
    __m512i both = _mm512_and_si512(_mm512_maskz_loadu_epi8(there, a + i),
                                    _mm512_maskz_loadu_epi8(there, b + i));
    total0 = _mm512_add_epi64(total0, _mm512_popcnt_epi64(both));
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(total0, total1)));
}

#elif defined(__AVX2__)

// The nibbles' popcounts by table lookup (Mula).
INLINE uint32_t shared_ones_inline(const uint8_t* a, const uint8_t* b, size_t n) {
  const __m256i ones_of = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  __m256i total = zero;
  size_t i = 0;
  while (i + 32 <= n) {
    __m256i bytes = zero;  // a round adds at most 8 to each byte: 31 rounds do not overflow
    for (size_t round = 0; round < 31 && i + 32 <= n; round++, i += 32) {
      __m256i both = _mm256_and_si256(load<__m256i>(a + i), load<__m256i>(b + i));
      __m256i low = _mm256_shuffle_epi8(ones_of, _mm256_and_si256(both, nibble));
      __m256i high =
          _mm256_shuffle_epi8(ones_of, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
      bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(low, high));
    }
    total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, zero));
  }
  uint64_t parts[4];
  store(parts, total);
  return static_cast<uint32_t>(parts[0] + parts[1] + parts[2] + parts[3]) +
         shared_ones_bytewise(a + i, b + i, n - i);
}

#elif defined(__ARM_NEON)

INLINE uint32_t shared_ones_inline(const uint8_t* a, const uint8_t* b, size_t n) {
  uint32_t total = 0;
  size_t i = 0;
  while (i + 16 <= n) {
    uint8x16_t bytes = vdupq_n_u8(0);  // a round adds at most 8 to each byte: no overflow in 31
    for (size_t round = 0; round < 31 && i + 16 <= n; round++, i += 16)
      bytes = vaddq_u8(bytes, vcntq_u8(vandq_u8(vld1q_u8(a + i), vld1q_u8(b + i))));
    total += vaddlvq_u8(bytes);
  }
  return total + shared_ones_bytewise(a + i, b + i, n - i);
}

#else

INLINE uint32_t shared_ones_inline(const uint8_t* a, const uint8_t* b, size_t n) {
  return shared_ones_bytewise(a, b, n);
}

#endif

uint32_t shared_ones(const uint8_t* a, const uint8_t* b, size_t n) {
  return shared_ones_inline(a, b, n);
}

void best_key(const uint8_t* keys, size_t rows, size_t n, const uint8_t* query, uint32_t* count,
              size_t* row) {
  uint32_t best = 0;
  size_t at = 0;
  for (size_t r = 0; r < rows; r++) {
    const uint8_t* key = keys + r * n;
    // Hardware prefetchers stop at page boundaries. (A prefetch beyond the bank cannot fault.)
    for (size_t ahead = 0; ahead < n; ahead += 64) __builtin_prefetch(key + 4096 + ahead);
    uint32_t found = shared_ones_inline(key, query, n);
    at = found >= best ? r : at;
    best = found >= best ? found : best;
  }
  *count = best;
  *row = at;
}

// --- Harley-Seal counter -------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr size_t STEP = 64;
#elif defined(__AVX2__)
constexpr size_t STEP = 32;
#else
constexpr size_t STEP = 16;
#endif

typedef uint64_t Bits __attribute__((vector_size(STEP)));  // one bit of each of 8 STEP keys

// Carry-save adder: returns the sum bit of a + b + c, `carry` gets the carry bit.
INLINE Bits add(Bits a, Bits b, Bits c, Bits& carry) {
  Bits half = a ^ b;
  carry = (a & b) | (half & c);
  return half ^ c;
}

alignas(64) const uint8_t NO_FEATURE[BLOCK_BYTES] = {};

void count_block(const uint8_t* block, size_t width, const uint32_t* features, size_t n,
                 Counts* counts) {
  const size_t before = counts->counted;
  size_t used = 4;
  while ((before + n) >> used != 0) used++;
  for (size_t p = counts->used; p < used; p++) __builtin_memset(counts->planes[p], 0, width);
  counts->used = used;
  counts->counted = before + n;
  size_t top = 4;  // planes that may be non-zero so far
  for (size_t g = 0; g < n; g += 16) {
    const uint8_t *group[16], *next[16];
    auto run = [&](size_t i) { return i < n ? block + features[i] * width : NO_FEATURE; };
    for (size_t i = 0; i < 16; i++) group[i] = run(g + i), next[i] = run(g + 16 + i);
    while (top < used && (before + g + 16) >> top != 0) top++;
    for (size_t at = 0; at < width; at += STEP) {
      // Sixteen runs at once, of some KiB each, are more than hardware prefetchers follow. (A
      // prefetch beyond the block cannot fault.)
      const size_t ahead = at + 512;
      for (size_t i = 0; i < 16; i++)
        __builtin_prefetch(ahead < width ? group[i] + ahead : next[i] + (ahead - width));
      auto bits = [&](size_t i) { return load<Bits>(group[i] + at); };
      auto plane = [&](size_t p) { return counts->planes[p] + at; };
      // A tree of carry-save adders takes in sixteen features; its last carry has weight 16.
      Bits ones = load<Bits>(plane(0)), twos = load<Bits>(plane(1));
      Bits fours = load<Bits>(plane(2)), eights = load<Bits>(plane(3));
      Bits two[2], four[2], eight[2], sixteen;
      for (size_t e = 0; e < 2; e++) {
        for (size_t f = 0; f < 2; f++) {
          const size_t first = e * 8 + f * 4;
          ones = add(ones, bits(first), bits(first + 1), two[0]);
          ones = add(ones, bits(first + 2), bits(first + 3), two[1]);
          twos = add(twos, two[0], two[1], four[f]);
        }
        fours = add(fours, four[0], four[1], eight[e]);
      }
      eights = add(eights, eight[0], eight[1], sixteen);
      store(plane(0), ones);
      store(plane(1), twos);
      store(plane(2), fours);
      store(plane(3), eights);
      for (size_t p = 4; p < top; p++) {
        Bits old = load<Bits>(plane(p));
        store(plane(p), old ^ sixteen);
        sixteen &= old;
      }
    }
  }
}

size_t at_least(const Counts* counts, size_t width, uint32_t least, uint64_t* which) {
  size_t number = 0;
  for (size_t at = 0; at < width; at += STEP) {
    Bits reached = (Bits){} - (least >> counts->used == 0);
    for (size_t p = 0; p < counts->used; p++) {  // a bit-sliced comparison, low planes first
      const Bits plane = load<Bits>(counts->planes[p] + at);
      reached = least >> p & 1 ? plane & reached : plane | reached;
    }
    store(which + at / 8, reached);
    for (size_t i = 0; i < STEP / 8; i++) number += __builtin_popcountll(which[at / 8 + i]);
  }
  return number;
}

uint32_t highest(const Counts* counts, size_t width, uint64_t* which) {
  uint32_t count = 0;
  for (size_t p = counts->used; p-- > 0;) {  // a bit-sliced maximum, high planes first
    const uint8_t* plane = counts->planes[p];
    Bits any = {};
    for (size_t at = 0; at < width; at += STEP)
      any |= load<Bits>(which + at / 8) & load<Bits>(plane + at);
    uint64_t some = 0;
    for (size_t i = 0; i < STEP / 8; i++) some |= any[i];
    if (some == 0) continue;
    count |= 1u << p;
    for (size_t at = 0; at < width; at += STEP)
      store(which + at / 8, load<Bits>(which + at / 8) & load<Bits>(plane + at));
  }
  return count;
}

// --- Numbers -------------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr size_t LANES = 16, ACROSS = 4;  // a register tile is 4 tokens x ACROSS vectors
#elif defined(__AVX2__)
constexpr size_t LANES = 8, ACROSS = 2;
#else
constexpr size_t LANES = 4, ACROSS = 2;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

INLINE Floats floats_of(Words bits) { return reinterpret_cast<Floats>(bits); }

INLINE Floats from_half(Halves halves) {
  Words h = __builtin_convertvector(halves, Words);
  Words sign = (h & 0x8000u) << 16, magnitude = (h & 0x7FFFu) << 13;
  Words normal = magnitude + (112u << 23);  // the exponent biases differ by 112
  Words extreme = magnitude | 0x7F800000u;  // infinite or NaN
  // Subnormals are m / 1024 * 2^-14: the difference of two normal numbers.
  Words least = (Words){} + (113u << 23);
  Words small = reinterpret_cast<Words>(floats_of(magnitude + least) - floats_of(least));
  Words is_small = (Words)(magnitude < (1u << 23)), is_extreme = (Words)(magnitude >= (31u << 23));
  Words value = (is_small & small) | (is_extreme & extreme) | (~is_small & ~is_extreme & normal);
  return floats_of(sign | value);
}

struct Float {
  static constexpr size_t SIZE = 4;
  static INLINE Floats read(const void* from) { return load<Floats>(from); }
};
struct Half {
  static constexpr size_t SIZE = 2;
  static INLINE Floats read(const void* from) { return from_half(load<Halves>(from)); }
};
struct BFloat {
  static constexpr size_t SIZE = 2;
  static INLINE Floats read(const void* from) {
    return floats_of(__builtin_convertvector(load<Halves>(from), Words) << 16);
  }
};
struct Int8 {
  static constexpr size_t SIZE = 1;
  static INLINE Floats read(const void* from) {
    return __builtin_convertvector(load<Bytes>(from), Floats);
  }
};

// The last n < LANES numbers of a row, padded with zeros.
template <class Type>
INLINE Floats read_some(const void* from, size_t n) {
  alignas(64) uint8_t padded[LANES * 4] = {};
  __builtin_memcpy(padded, from, n * Type::SIZE);
  return Type::read(padded);
}

template <class Type>
void add_typed(const void* a, size_t n, float* sum) {
  const char* from = static_cast<const char*>(a);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    store(sum + i, load<Floats>(sum + i) + Type::read(from + i * Type::SIZE));
  if (i == n) return;
  Floats rest = read_some<Float>(sum + i, n - i) + read_some<Type>(from + i * Type::SIZE, n - i);
  __builtin_memcpy(sum + i, &rest, (n - i) * 4);
}

void add_token(const void* a, int type, size_t n, float* sum) {
  if (type == FLOAT16) return add_typed<Half>(a, n, sum);
  if (type == BFLOAT16) return add_typed<BFloat>(a, n, sum);
  add_typed<Float>(a, n, sum);
}

INLINE Floats multiply_add(float x, Floats v, Floats sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(_mm512_set1_ps(x), v, sum);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(_mm256_set1_ps(x), v, sum);
#elif defined(__ARM_NEON)
  return vfmaq_n_f32(sum, v, x);
#else
  return sum + x * v;
#endif
}

// One register tile of the product: TOKENS tokens by VECTORS vectors of columns.
template <class Type, size_t TOKENS, size_t VECTORS>
INLINE void tile(const float* x, size_t n, const int32_t* rows, const char* values, size_t width,
                 size_t column, float* out) {
  Floats sums[TOKENS][VECTORS] = {};
  for (size_t i = 0; i < n; i++) {
    const char* row = values + (static_cast<size_t>(rows[i]) * width + column) * Type::SIZE;
    for (size_t v = 0; v < VECTORS; v++) {
      Floats value = Type::read(row + v * LANES * Type::SIZE);
      for (size_t t = 0; t < TOKENS; t++)
        sums[t][v] = multiply_add(x[t * n + i], value, sums[t][v]);
    }
  }
  for (size_t t = 0; t < TOKENS; t++)
    for (size_t v = 0; v < VECTORS; v++)
      store(out + t * width + column + v * LANES, sums[t][v]);
}

template <class Type>
void multiply_rest(const float* x, size_t tokens, size_t n, const int32_t* rows, const char* values,
                   size_t width, size_t column, size_t count, float* out) {
  for (size_t t = 0; t < tokens; t++) {
    Floats sum = {};
    for (size_t i = 0; i < n; i++) {
      const char* row = values + (static_cast<size_t>(rows[i]) * width + column) * Type::SIZE;
      sum = multiply_add(x[t * n + i], read_some<Type>(row, count), sum);
    }
    __builtin_memcpy(out + t * width + column, &sum, count * 4);
  }
}

template <class Type, size_t TOKENS, size_t VECTORS>
INLINE size_t tiles(const float* x, size_t n, const int32_t* rows, const char* values, size_t width,
                    size_t column, size_t end, float* out) {
  for (; column + VECTORS * LANES <= end; column += VECTORS * LANES)
    tile<Type, TOKENS, VECTORS>(x, n, rows, values, width, column, out);
  return column;
}

template <class Type>
void multiply_typed(const float* x, size_t tokens, size_t n, const int32_t* rows,
                    const char* values, size_t width, size_t begin, size_t end, float* out) {
  size_t t = 0;
  for (; t < tokens; ) {
    const size_t together = tokens - t >= 4 ? 4 : 1;
    const float* own = x + t * n;
    float* to = out + t * width;
    size_t column = begin;
    if (together == 4) {
      column = tiles<Type, 4, ACROSS>(own, n, rows, values, width, column, end, to);
      column = tiles<Type, 4, 1>(own, n, rows, values, width, column, end, to);
    } else {  // with one token each value is used once: read the rows in long runs
      column = tiles<Type, 1, 8>(own, n, rows, values, width, column, end, to);
      column = tiles<Type, 1, 1>(own, n, rows, values, width, column, end, to);
    }
    if (column < end)
      multiply_rest<Type>(own, together, n, rows, values, width, column, end - column, to);
    t += together;
  }
}

void multiply(const float* x, size_t tokens, size_t n, const int32_t* rows, const void* values,
              int type, size_t width, size_t begin, size_t end, float* out) {
  const char* from = static_cast<const char*>(values);
  auto with = type == FLOAT16    ? multiply_typed<Half>
              : type == BFLOAT16 ? multiply_typed<BFloat>
              : type == INT8     ? multiply_typed<Int8>
                                 : multiply_typed<Float>;
  with(x, tokens, n, rows, from, width, begin, end, out);
}

#define NAME_OF(set) #set
#define NAME(set) NAME_OF(set)

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {NAME(KERNELS), shared_ones, best_key, count_block, at_least, highest, add_token, multiply};

}  // namespace memoir_edge
