// CUDA's language on one CPU thread, as far as cuda.cu uses it: its kernels are tested where there
// is no GPU. Says nothing of speed, nor of what threads do to each other between two barriers.
//
// The threads of a block are fibers: each runs until it waits for the others.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // blocks run one after the other

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint4 {
  uint32_t x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// --- A block -------------------------------------------------------------------------------------

namespace emulated {

constexpr size_t WARP = 32, STACK = 1 << 16, MOST = 1024;  // threads of a block

struct Barrier {
  size_t arrived = 0, passed = 0;
};

inline std::vector<char> stacks[MOST];
inline ucontext_t fibers[MOST], scheduler;
inline bool done[MOST];
inline size_t running;
inline Barrier block, warps[MOST / WARP];
inline std::function<void()> body;
inline std::mutex one_at_a_time;

inline void wait(Barrier& barrier, size_t threads) {
  const size_t round = barrier.passed;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    barrier.passed++;
  }
  while (barrier.passed == round) swapcontext(&fibers[running], &scheduler);
}

inline void run_thread() {
  body();
  done[running] = true;
}

inline void run_block() {
  const size_t threads = blockDim.x * blockDim.y * blockDim.z;
  block = {};
  std::fill(std::begin(warps), std::end(warps), Barrier{});
  for (size_t i = 0; i < threads; i++) {
    stacks[i].resize(STACK);
    done[i] = false;
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks[i].data();
    fibers[i].uc_stack.ss_size = STACK;
    fibers[i].uc_link = &scheduler;
    makecontext(&fibers[i], run_thread, 0);
  }
  for (bool left = true; left;) {
    left = false;
    for (size_t i = 0; i < threads; i++) {
      if (done[i]) continue;
      const unsigned at = static_cast<unsigned>(i), row = at / blockDim.x;
      threadIdx = {at % blockDim.x, row % blockDim.y, row / blockDim.y};
      running = i;
      swapcontext(&scheduler, &fibers[i]);
      left |= !done[i];
    }
  }
}

}  // namespace emulated

inline void __syncthreads() {
  emulated::wait(emulated::block, blockDim.x * blockDim.y * blockDim.z);
}

inline int __shfl_xor_sync(unsigned, int value, int lane) {
  using namespace emulated;
  static int values[MOST];
  values[running] = value;
  wait(warps[running / WARP], WARP);
  const int found = values[running ^ static_cast<size_t>(lane)];
  wait(warps[running / WARP], WARP);
  return found;
}

namespace cub {

template <class T, int THREADS>
struct BlockScan {
  using TempStorage = T[THREADS];
  explicit BlockScan(TempStorage& storage) : values(storage) {}
  void ExclusiveSum(T value, T& before) {
    T all;
    ExclusiveSum(value, before, all);
  }
  void ExclusiveSum(T value, T& before, T& all) {
    values[emulated::running] = value;
    __syncthreads();
    before = std::accumulate(values, values + emulated::running, T{});
    all = std::accumulate(values, values + THREADS, T{});
    __syncthreads();
  }
  TempStorage& values;
};

}  // namespace cub

// --- What a thread can do ------------------------------------------------------------------------

using std::max;
using std::min;

template <class T>
void atomicAdd(T* to, T value) { *to += value; }
template <class T>
void atomicOr(T* to, T value) { *to |= value; }
template <class T>
void atomicMax(T* to, T value) { *to = std::max(*to, value); }

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct __half {
  uint16_t bits;
};
inline float __half2float(__half half) {
  const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
  const float sign = half.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                          : std::ldexp(static_cast<float>(fraction), -24));
}

// --- What a host can do --------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };

inline const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }
inline cudaError_t cudaMallocAsync(void** out, size_t bytes, cudaStream_t) {
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaMemsetAsync(void* data, int byte, size_t bytes, cudaStream_t) {
  std::memset(data, byte, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  std::free(data);
  return cudaSuccess;
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, cudaStream_t, const A&... arguments) {
  const std::lock_guard<std::mutex> lock(emulated::one_at_a_time);
  gridDim = grid;
  blockDim = threads;
  emulated::body = [&] { kernel(static_cast<P>(arguments)...); };
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) emulated::run_block();
}
