// See prefix.h.
#include "prefix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "kernels.h"

namespace memoir_edge {
namespace {

// An 8 x 8 square of bits, byte r bit c to byte c bit r: halves, quarters and eighths change places.
uint64_t turn(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

alignas(64) const uint8_t NO_FEATURE[BLOCK_BYTES] = {};

// Bit i of the bytes, order little.
bool bit(const uint8_t* bytes, size_t i) { return bytes[i / 8] >> (i % 8) & 1; }

uint32_t count_of(const Counts& counts, size_t key) {
  uint32_t count = 0;
  for (size_t p = 0; p < PLANES; p++) count |= uint32_t{bit(counts.planes[p], key)} << p;
  return count;
}

uint64_t word(const uint8_t* bytes, size_t i) {
  uint64_t value;
  std::memcpy(&value, bytes + 8 * i, 8);
  return value;
}

// Keys 64 w .. 64 w + 63 whose count is at least `least`, as bits.
uint64_t reaching(const Counts& counts, size_t w, uint32_t least) {
  uint64_t reached = ~0ull;
  for (size_t p = 0; p < PLANES; p++) {
    const uint64_t plane = word(counts.planes[p], w);
    reached = least >> p & 1 ? plane & reached : plane | reached;
  }
  return reached;
}

// The highest count of any key.
uint32_t highest(const Counts& counts) {
  uint64_t among[BLOCK_BYTES / 8];
  std::fill(std::begin(among), std::end(among), ~0ull);
  uint32_t count = 0;
  for (size_t p = PLANES; p-- > 0;) {
    uint64_t any = 0;
    for (size_t w = 0; w < BLOCK_BYTES / 8; w++) any |= among[w] & word(counts.planes[p], w);
    if (any == 0) continue;
    count |= 1u << p;
    for (size_t w = 0; w < BLOCK_BYTES / 8; w++) among[w] &= word(counts.planes[p], w);
  }
  return count;
}

}  // namespace

size_t prefix_bytes(size_t R, size_t n) {
  return (R + BLOCK_KEYS - 1) / BLOCK_KEYS * n * BLOCK_BYTES;
}

void make_prefix(const uint8_t* bank, size_t R, size_t W, size_t n, uint8_t* prefix) {
  for (size_t first = 0; first < R; first += BLOCK_KEYS, prefix += n * BLOCK_BYTES) {
    const size_t keys = std::min(BLOCK_KEYS, R - first);
    std::memset(prefix, 0, n * BLOCK_BYTES);
    for (size_t byte = 0; byte < n / 8; byte++) {
      for (size_t group = 0; group < keys; group += 8) {
        uint64_t square = 0;
        for (size_t key = group; key < std::min(group + 8, keys); key++)
          square |= uint64_t{bank[(first + key) * W + byte]} << 8 * (key - group);
        square = turn(square);
        for (size_t j = 0; j < 8; j++)
          prefix[(8 * byte + j) * BLOCK_BYTES + group / 8] = static_cast<uint8_t>(square >> 8 * j);
      }
    }
  }
}

uint32_t least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen) {
  // P(c) = choose(shared, c) choose(k - shared, seen - c) / choose(k, seen), in logarithms.
  auto log_choose = [](double n, double c) {
    return std::lgamma(n + 1) - std::lgamma(c + 1) - std::lgamma(n - c + 1);
  };
  const uint32_t others = k - shared;
  uint32_t c = seen > others ? seen - others : 0;
  double log_p = log_choose(shared, c) + log_choose(others, seen - c) - log_choose(k, seen);
  double below = 0;  // P(fewer than c)
  for (; c < std::min(shared, seen); c++) {
    below += std::exp(log_p);
    if (below >= MISS) return c;
    log_p += std::log(double(shared - c) * double(seen - c)) -
             std::log((c + 1.0) * (double(others) - seen + c + 1.0));
  }
  return c;
}

uint32_t least_shared(const float* thresholds, size_t n, uint32_t k) {
  float lowest_of[16];  // of every sixteenth: a compiler makes one instruction of them
  std::fill(std::begin(lowest_of), std::end(lowest_of), INFINITY);
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (size_t j = 0; j < 16; j++)
      lowest_of[j] = thresholds[i + j] < lowest_of[j] ? thresholds[i + j] : lowest_of[j];
  for (; i < n; i++) lowest_of[0] = std::min(thresholds[i], lowest_of[0]);
  const float lowest = *std::min_element(std::begin(lowest_of), std::end(lowest_of));
  uint32_t low = 0, high = k + 1;  // by bisection: the quotient is rounded, as Route rounds it
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const bool reached = static_cast<float>(middle) / static_cast<float>(k) >= lowest;
    (reached ? high : low) = reached ? middle : middle + 1;
  }
  return low;
}

Search plan(const uint8_t* query, uint32_t k, uint32_t shared, const uint8_t* bank, size_t R,
            size_t W, size_t n) {
  constexpr size_t SAMPLE = 512, LENGTHS = 10;
  constexpr double LOOK = 4000;  // features that are counted while one key is looked at
  std::vector<uint32_t> ones;
  for (uint32_t i = 0; i < n; i++)
    if (bit(query, i)) ones.push_back(i);
  Search best{query, n, ones, shared > k ? static_cast<uint32_t>(ones.size()) + 1
                                         : least_in_prefix(k, shared, ones.size())};
  if (R < 2 * SAMPLE || shared > k) return best;
  const size_t step = R / SAMPLE;
  double least_cost = INFINITY;
  for (size_t length = 1; length <= LENGTHS; length++) {
    const size_t read = n * length / LENGTHS / 8 * 8;
    const auto end = std::lower_bound(ones.begin(), ones.end(), read);
    const uint32_t seen = static_cast<uint32_t>(end - ones.begin());
    const uint32_t least = least_in_prefix(k, shared, seen);
    size_t left = 0;
    for (size_t key = 0; key < SAMPLE; key++)
      left += kernels()->shared_ones(bank + key * step * W, query, read / 8) >= least;
    const double cost = seen + LOOK * static_cast<double>(left) / SAMPLE;
    if (cost >= least_cost) continue;
    least_cost = cost;
    best = {query, read, {ones.begin(), end}, least};
  }
  return best;
}

void search_block(const Search& search, const uint8_t* prefix, const uint8_t* bank, size_t R,
                  size_t W, size_t n, size_t block, Best* best, Best* fallback) {
  const Kernels& run = *kernels();
  const uint8_t* here = prefix + block * n * BLOCK_BYTES;
  const uint8_t* features[MAX_PREFIX + 16];
  size_t used = 0;
  for (const uint32_t one : search.ones) features[used++] = here + one * BLOCK_BYTES;
  while (used % 16 != 0) features[used++] = NO_FEATURE;
  Counts counts;
  run.count_block(features, used, &counts);

  const size_t first = block * BLOCK_KEYS, keys = std::min(BLOCK_KEYS, R - first);
  const size_t seen = search.read / 8, unseen = W - seen;
  auto rest_of = [&](size_t key) { return bank + (first + key) * W + seen; };
  auto shared = [&](size_t key) {
    return count_of(counts, key) + run.shared_ones(rest_of(key), search.query + seen, unseen);
  };
  constexpr size_t AHEAD = 12;   // keys that are on their way from memory
  constexpr size_t WORDS = 256;  // of the counts, whose keys are looked at together
  for (size_t begin = 0; begin < BLOCK_BYTES / 8; begin += WORDS) {
    uint32_t left[WORDS * 64];
    size_t n_left = 0;
    for (size_t w = begin; w < std::min(begin + WORDS, BLOCK_BYTES / 8); w++)
      for (uint64_t bits = reaching(counts, w, search.least); bits != 0; bits &= bits - 1) {
        const size_t key = 64 * w + static_cast<size_t>(__builtin_ctzll(bits));
        if (key < keys) left[n_left++] = static_cast<uint32_t>(key);
      }
    for (size_t i = 0; i < n_left; i++) {
      if (i + AHEAD < n_left)
        for (size_t at = 0; at < unseen; at += 64)
          __builtin_prefetch(rest_of(left[i + AHEAD]) + at);
      best->take(shared(left[i]), first + left[i]);
    }
  }
  if (best->found) return;
  const uint32_t most = highest(counts);
  for (size_t w = BLOCK_BYTES / 8; w-- > 0;) {
    uint64_t bits = reaching(counts, w, most);
    if (w == keys / 64) bits &= (1ull << keys % 64) - 1;
    if (64 * w >= keys || bits == 0) continue;
    const size_t key = 64 * w + 63 - __builtin_clzll(bits);
    fallback->take(most, first + key);
    return;
  }
}

}  // namespace memoir_edge
