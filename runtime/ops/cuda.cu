// Route and Recall on CUDA, on the session's stream.
//
// Nothing is copied back to the host, so a wrong value inside a tensor cannot be refused with a
// status. It is made harmless instead: an owner or a route beyond the bank means the base model, an
// entry of the permutation or of the columns beyond D is left out.
#ifdef MEMOIR_EDGE_EMULATE
#include "emulated_cuda.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cub/block/block_scan.cuh>
#endif

#include <algorithm>
#include <string>

#include "inputs.h"

namespace memoir_edge {
namespace {

constexpr int BLOCK = 1024;  // threads that select one row's mask, or its active columns
constexpr int WARPS = 8;     // warps of a block that scans keys, one key each
constexpr int QUERIES = 8;   // rows that are compared with a key while it is in registers
constexpr int TOKENS = 4;    // tokens of a row that use one read of the values
constexpr int SPLIT = 16;    // split-K: partial sums over the active columns

#ifdef MEMOIR_EDGE_EMULATE
constexpr unsigned GRID = 4;  // so that a block loops over several keys of a small bank, too
#else
constexpr unsigned GRID = 2048;  // most blocks of a scan, a grid-stride loop
#endif

using Packed = unsigned long long;  // shared ones << 32 | row: the maximum is the best key

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw Refusal(std::string("CUDA: ") + cudaGetErrorString(error));
}

// n zeros on the device, freed in stream order.
template <class T>
class Scratch {
 public:
  Scratch(size_t n, cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaMallocAsync(reinterpret_cast<void**>(&data_), n * sizeof(T), stream));
    check_cuda(cudaMemsetAsync(data_, 0, n * sizeof(T), stream));
  }
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_ = nullptr;
  cudaStream_t stream_;
};

__device__ float element(const void* data, int type, size_t i) {
  switch (type) {
    case FLOAT16:
      return __half2float(static_cast<const __half*>(data)[i]);
    case BFLOAT16:
      return __uint_as_float(static_cast<unsigned>(static_cast<const uint16_t*>(data)[i]) << 16);
    default:
      return static_cast<const float*>(data)[i];
  }
}

// --- Route ---------------------------------------------------------------------------------------

// bits[b][i]: the bits of feature i's magnitude, which are ordered as it is. One thread per
// feature.
__global__ void feature(const void* a, int type, const int64_t* span, const int64_t* route,
                        const float* center, const float* scale, int T, int D, uint32_t* bits) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
  if (i >= D || route[b] != 0) return;
  float total = 0;
  int tokens = 0;
  for (int t = 0; t < T; t++) {
    if (span[static_cast<size_t>(b) * T + t] <= 0) continue;
    total += element(a, type, (static_cast<size_t>(b) * T + t) * D + i);
    tokens++;
  }
  const float mean = __fdiv_rn(total, static_cast<float>(max(tokens, 1)));
  const float f = fabsf(__fmul_rn(__fsub_rn(mean, center[i]), scale[i]));
  bits[static_cast<size_t>(b) * D + i] = f == f ? __float_as_uint(f) : 0x7FC00000u;
}

// The mask of one row, as words, by radix select; one block per row. As make_mask of route.cpp.
__global__ void write_masks(const uint32_t* all_bits, const int64_t* route,
                            const int32_t* permutation, int D, int k, int words, uint32_t* masks) {
  using Scan = cub::BlockScan<int, BLOCK>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ int counts[256];
  __shared__ uint32_t value;
  __shared__ int left;
  const int b = blockIdx.x;
  if (route[b] != 0) return;
  const uint32_t* bits = all_bits + static_cast<size_t>(b) * D;
  if (threadIdx.x == 0) value = 0, left = k;
  uint32_t known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int d = threadIdx.x; d < 256; d += BLOCK) counts[d] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < D; i += BLOCK)
      if ((bits[i] & known) == value) atomicAdd(&counts[bits[i] >> shift & 0xFF], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t d = 0xFF;
      for (; counts[d] < left; d--) left -= counts[d];
      value |= d << shift;
    }
    known |= 0xFFu << shift;
    __syncthreads();
  }
  // Each thread has a run of its own, so that a prefix sum ranks equals by their index.
  const int stretch = (D + BLOCK - 1) / BLOCK, begin = min(static_cast<int>(threadIdx.x) * stretch, D);
  const int end = min(begin + stretch, D);
  int equals = 0, before = 0;
  for (int i = begin; i < end; i++) equals += bits[i] == value;
  Scan(scan).ExclusiveSum(equals, before);
  for (int i = begin; i < end; i++) {
    if (bits[i] < value || (bits[i] == value && before++ >= left)) continue;
    const uint32_t place = static_cast<uint32_t>(permutation[i]);
    if (place < static_cast<uint32_t>(D))
      atomicOr(masks + static_cast<size_t>(b) * words + place / 32, 1u << place % 32);
  }
}

__device__ int ones(uint4 a, uint4 b) {
  return __popc(a.x & b.x) + __popc(a.y & b.y) + __popc(a.z & b.z) + __popc(a.w & b.w);
}
__device__ int ones(uint32_t a, uint32_t b) { return __popc(a & b); }
__device__ int ones(uint8_t a, uint8_t b) { return __popc(a & b); }

// The best key of up to QUERIES rows; one warp per key, which it reads in pieces of type Piece.
template <class Piece>
__global__ void best_keys(const uint8_t* bank, const uint32_t* masks, const int64_t* route, int B,
                          int64_t R, int W, int words, Packed* best) {
  const int first = blockIdx.y * QUERIES, rows = min(QUERIES, B - first);
  bool anyone = false;
  for (int q = 0; q < rows; q++) anyone |= route[first + q] == 0;
  if (!anyone) return;
  const int lane = threadIdx.x % 32, pieces = W / static_cast<int>(sizeof(Piece));
  Packed own[QUERIES] = {};
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32; row < R;
       row += static_cast<int64_t>(gridDim.x) * WARPS) {
    const Piece* key = reinterpret_cast<const Piece*>(bank + row * W);
    int shared[QUERIES] = {};
    for (int p = lane; p < pieces; p += 32) {
      const Piece piece = key[p];
#pragma unroll
      for (int q = 0; q < QUERIES; q++)
        if (q < rows)
          shared[q] += ones(piece, reinterpret_cast<const Piece*>(
                                       masks + static_cast<size_t>(first + q) * words)[p]);
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
      for (int step = 16; step > 0; step /= 2)
        shared[q] += __shfl_xor_sync(0xFFFFFFFFu, shared[q], step);
      own[q] = max(own[q], static_cast<Packed>(shared[q]) << 32 | static_cast<Packed>(row));
    }
  }
  if (lane == 0)
    for (int q = 0; q < rows; q++) atomicMax(best + first + q, own[q]);
}

__global__ void decide(const Packed* best, const int64_t* route, const int32_t* owner,
                       const float* thresholds, int n_thresholds, int B, int64_t R, int k,
                       int64_t* route_out, float* overlap, int64_t* candidate) {
  const int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= B) return;
  if (route[b] != 0) {
    route_out[b] = route[b];
    overlap[b] = 0;
    candidate[b] = -1;
    return;
  }
  const int64_t row = static_cast<int64_t>(best[b] & 0xFFFFFFFFu);
  overlap[b] = __fdiv_rn(static_cast<float>(best[b] >> 32), static_cast<float>(k));
  candidate[b] = row;
  const bool reached = overlap[b] >= thresholds[n_thresholds == 1 ? 0 : row];
  route_out[b] = reached && owner[row] >= 0 && owner[row] < R ? owner[row] + 1 : -1;
}

// --- Recall --------------------------------------------------------------------------------------

// Stream compaction: the stored columns that a row's mask has, in order. One block per row.
__global__ void gather(const int64_t* route, const uint8_t* bank, const int32_t* columns, int64_t R,
                       int W, int C, int D, int32_t* all_active, int* n_active) {
  using Scan = cub::BlockScan<int, BLOCK>;
  __shared__ typename Scan::TempStorage scan;
  const int b = blockIdx.x;
  if (route[b] <= 0 || route[b] > R) return;
  const uint8_t* mask = bank + (route[b] - 1) * W;
  auto taken = [&](int c) {
    const uint32_t column = static_cast<uint32_t>(columns[c]);
    return column < static_cast<uint32_t>(D) && (mask[column / 8] >> column % 8 & 1);
  };
  const int stretch = (C + BLOCK - 1) / BLOCK, begin = min(static_cast<int>(threadIdx.x) * stretch, C);
  const int end = min(begin + stretch, C);
  int found = 0, at = 0, all = 0;
  for (int c = begin; c < end; c++) found += taken(c);
  Scan(scan).ExclusiveSum(found, at, all);
  int32_t* active = all_active + static_cast<size_t>(b) * C;
  for (int c = begin; c < end; c++)
    if (taken(c)) active[at++] = c;
  if (threadIdx.x == 0) n_active[b] = all;
}

// delta of 32 columns and TOKENS tokens of a row; the active columns are split among SPLIT warps.
__global__ void multiply(const void* a, int a_type, const void* values, int type,
                         const int32_t* columns, const int32_t* all_active, const int* n_active,
                         int T, int D, int C, int d, float* delta) {
  __shared__ float parts[SPLIT][TOKENS][32];
  const int b = blockIdx.z, t0 = blockIdx.y * TOKENS, tokens = min(TOKENS, T - t0);
  const int lane = threadIdx.x, part = threadIdx.y, j = blockIdx.x * 32 + lane;
  const int n = n_active[b];
  const int32_t* active = all_active + static_cast<size_t>(b) * C;
  float sums[TOKENS] = {};
  if (j < d) {
#pragma unroll 4
    for (int i = part; i < n; i += SPLIT) {
      const int c = active[i], column = columns[c];
      const float value = element(values, type, static_cast<size_t>(c) * d + j);
#pragma unroll
      for (int t = 0; t < TOKENS; t++)
        if (t < tokens)
          sums[t] += element(a, a_type, (static_cast<size_t>(b) * T + t0 + t) * D + column) * value;
    }
  }
  for (int t = 0; t < TOKENS; t++) parts[part][t][lane] = sums[t];
  __syncthreads();
  if (part >= tokens || j >= d) return;
  float sum = 0;
  for (int p = 0; p < SPLIT; p++) sum += parts[p][part][lane];
  delta[(static_cast<size_t>(b) * T + t0 + part) * d + j] = sum;
}

#ifdef MEMOIR_EDGE_EMULATE
cudaStream_t stream_of(const Call&) { return nullptr; }
#else
cudaStream_t stream_of(const Call& call) { return static_cast<cudaStream_t>(call.stream()); }

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, const A&... arguments) {
  kernel<<<grid, block, 0, stream>>>(static_cast<P>(arguments)...);
  check_cuda(cudaGetLastError());
}
#endif

unsigned blocks(size_t n, size_t each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace

void compute_route_cuda(const Call& call) {
  const RouteInputs in = read_route(call);
  const cudaStream_t stream = stream_of(call);
  int64_t* route_out = call.output<int64_t>(0, {in.B()});
  float* overlap = call.output<float>(1, {in.B()});
  int64_t* candidate = call.output<int64_t>(2, {in.B()});
  const int B = static_cast<int>(in.B()), T = static_cast<int>(in.T()), D = static_cast<int>(in.D());
  const int W = static_cast<int>(in.W()), k = static_cast<int>(in.k);
  const int64_t R = static_cast<int64_t>(in.R());
  if (in.R() > UINT32_MAX) throw Refusal("bank has more than 2^32 keys");
  if (B == 0) return;
  const int words = (W + 15) / 16 * 4;  // of a mask, which is read in pieces of up to 16 bytes
  const int64_t* route = in.route.as<int64_t>();
  const Scratch<uint32_t> bits(in.B() * in.D(), stream), masks(in.B() * words, stream);
  const Scratch<Packed> best(in.B(), stream);
  launch(feature, dim3(blocks(in.D(), 256), B), 256, stream, in.a.data, in.a.type,
         in.span.as<int64_t>(), route, in.center.as<float>(), in.scale.as<float>(), T, D, bits);
  launch(write_masks, B, BLOCK, stream, bits, route, in.permutation.as<int32_t>(), D, k, words,
         masks);
  auto search = W % 16 == 0  ? best_keys<uint4>
                : W % 4 == 0 ? best_keys<uint32_t>
                             : best_keys<uint8_t>;
  const dim3 grid(std::min(blocks(in.R(), WARPS), GRID), blocks(in.B(), QUERIES));
  launch(search, grid, WARPS * 32, stream, in.bank.as<uint8_t>(), masks, route, B, R, W, words,
         best);
  launch(decide, blocks(in.B(), 128), 128, stream, best, route, in.owner.as<int32_t>(),
         in.thresholds.as<float>(), static_cast<int>(in.thresholds.size[0]), B, R, k, route_out,
         overlap, candidate);
}

void compute_recall_cuda(const Call& call) {
  const RecallInputs in = read_recall(call);
  const cudaStream_t stream = stream_of(call);
  float* delta = call.output<float>(0, {in.B(), in.T(), in.d()});
  const int B = static_cast<int>(in.B()), T = static_cast<int>(in.T()), D = static_cast<int>(in.D());
  const int C = static_cast<int>(in.C()), d = static_cast<int>(in.d());
  if (in.B() * in.T() * in.d() == 0) return;
  const Scratch<int32_t> active(in.B() * std::max<size_t>(in.C(), 1), stream);
  const Scratch<int> n_active(in.B(), stream);
  launch(gather, B, BLOCK, stream, in.route.as<int64_t>(), in.bank.as<uint8_t>(),
         in.columns.as<int32_t>(), static_cast<int64_t>(in.bank.size[0]),
         static_cast<int>(in.bank.size[1]), C, D, active, n_active);
  const dim3 grid(blocks(in.d(), 32), blocks(in.T(), TOKENS), B);
  launch(multiply, grid, dim3(32, SPLIT), stream, in.a.data, in.a.type, in.values.data,
         in.values.type, in.columns.as<int32_t>(), active, n_active, T, D, C, d, delta);
}

}  // namespace memoir_edge
