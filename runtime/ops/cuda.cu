// Route and Recall on CUDA, on the session's stream.
//
// Nothing is copied back to the host, so a wrong value inside a tensor cannot be refused with a
// status. It is made harmless instead: an owner or a route beyond the bank means the base model, an
// entry of the permutation beyond D or a column of no tile is left out.
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

constexpr int BLOCK = 1024;  // threads that choose one row's mask, or its active columns
constexpr int THREADS = 256;  // of a block that reads keys
constexpr int QUERIES = 8;   // rows that are compared with a key while it is in registers
constexpr int TOKENS = 16;   // tokens of a prompt that share what is read of the values
constexpr int SPLIT = 16;    // parts of a sum over the active columns
constexpr int CHUNK = 128;   // active columns whose activations are in shared memory
static_assert(TOKENS <= SPLIT, "each token's parts are added by a warp of its own");

#ifdef MEMOIR_EDGE_EMULATE
constexpr unsigned GRID = 4;  // so that a block loops over several keys of a small bank, too
#else
constexpr unsigned GRID = 1024;  // most blocks that share a bank out
#endif

using Packed = unsigned long long;  // shared ones << 32 | row: the maximum is the best key

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw Refusal(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Bytes on the device, the first of them zeros, for as long as the stream's work needs them.
class Scratch {
 public:
  Scratch(size_t bytes, size_t zeros, cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaMallocAsync(&data_, bytes, stream));
    if (zeros != 0) check_cuda(cudaMemsetAsync(data_, 0, zeros, stream));
  }
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* at(size_t byte) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + byte);
  }

 private:
  void* data_ = nullptr;
  cudaStream_t stream_;
};

struct Float {
  static __device__ float read(const void* data, size_t i) {
    return static_cast<const float*>(data)[i];
  }
};
struct Half {
  static __device__ float read(const void* data, size_t i) {
    return __half2float(static_cast<const __half*>(data)[i]);
  }
};
struct BFloat {
  static __device__ float read(const void* data, size_t i) {
    return __uint_as_float(static_cast<unsigned>(static_cast<const uint16_t*>(data)[i]) << 16);
  }
};

__device__ float element(const void* data, int type, size_t i) {
  return type == FLOAT16    ? Half::read(data, i)
         : type == BFLOAT16 ? BFloat::read(data, i)
                            : Float::read(data, i);
}

// --- Route ---------------------------------------------------------------------------------------

// bits[b][i]: the bits of feature i's magnitude, which are ordered as it is. One thread per feature.
template <class Activation>
__global__ void feature(const void* a, const int64_t* span, const int64_t* route,
                        const float* center, const float* scale, int T, int D, uint32_t* bits) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
  if (i >= D || route[b] != 0) return;
  float total = 0;
  int tokens = 0;
#pragma unroll 8
  for (int t = 0; t < T; t++) {
    const size_t token = static_cast<size_t>(b) * T + t;
    const bool counted = span[token] > 0;
    const float value = Activation::read(a, token * D + i);  // in any case: loads overlap
    total += counted ? value : 0;
    tokens += counted;
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

// The best key of up to QUERIES rows; `lanes` threads of a warp a key, in pieces of the type Piece.
template <class Piece>
__global__ void best_keys(const uint8_t* bank, const uint32_t* masks, const int64_t* route, int B,
                          int64_t R, int W, int words, int lanes, Packed* best) {
  __shared__ Packed of_block[QUERIES];
  const int first = blockIdx.y * QUERIES, rows = min(QUERIES, B - first);
  bool anyone = false;
  for (int q = 0; q < rows; q++) anyone |= route[first + q] == 0;
  if (!anyone) return;
  if (threadIdx.x < QUERIES) of_block[threadIdx.x] = 0;
  __syncthreads();
  const int lane = threadIdx.x % lanes, pieces = W / static_cast<int>(sizeof(Piece));
  const int64_t group = threadIdx.x / lanes, groups = THREADS / lanes;
  Packed own[QUERIES] = {};
  for (int64_t key = blockIdx.x * groups; key < R; key += gridDim.x * groups) {
    const int64_t row = min(key + group, R - 1);  // no harm in reading the last one twice
    const Piece* from = reinterpret_cast<const Piece*>(bank + row * W);
    int shared[QUERIES] = {};
    for (int p = lane; p < pieces; p += lanes) {
      const Piece piece = from[p];
#pragma unroll
      for (int q = 0; q < QUERIES; q++)
        if (q < rows)
          shared[q] += ones(piece, reinterpret_cast<const Piece*>(
                                       masks + static_cast<size_t>(first + q) * words)[p]);
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
      if (q >= rows) break;
      for (int step = lanes / 2; step > 0; step /= 2)
        shared[q] += __shfl_xor_sync(0xFFFFFFFFu, shared[q], step);
      own[q] = max(own[q], static_cast<Packed>(shared[q]) << 32 | static_cast<Packed>(row));
    }
  }
  if (lane == 0)
    for (int q = 0; q < rows; q++) atomicMax(of_block + q, own[q]);
  __syncthreads();
  const int q = threadIdx.x;
  if (q < rows) atomicMax(best + first + q, of_block[q]);
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
__global__ void gather(const int64_t* route, const uint8_t* bank, const int32_t* tile,
                       const int32_t* columns, int64_t R, int W, int C, int D, int32_t* all_active,
                       int* n_active) {
  using Scan = cub::BlockScan<int, BLOCK>;
  __shared__ typename Scan::TempStorage scan;
  const int b = blockIdx.x;
  if (route[b] <= 0 || route[b] > R) {
    if (threadIdx.x == 0) n_active[b] = 0;
    return;
  }
  const uint8_t* mask = bank + (route[b] - 1) * W;
  const int64_t first = tile == nullptr ? 0 : static_cast<int64_t>(tile[route[b] - 1]) * D;
  auto taken = [&](int c) {
    const int64_t feature = columns[c] - first;
    return columns[c] >= 0 && feature >= 0 && feature < D && (mask[feature / 8] >> feature % 8 & 1);
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

// delta for 32 columns and up to N tokens of a row; SPLIT warps share the active columns out.
template <int N, class Value>
__global__ void multiply(const void* a, int a_type, const void* values, const int32_t* columns,
                         const int32_t* all_active, const int* n_active, int T, int D, int C, int d,
                         float* delta) {
  alignas(16) __shared__ float x[CHUNK][N];  // activations at the active columns, 0 beyond T
  __shared__ int32_t rows[CHUNK];            // of the values
  __shared__ float parts[SPLIT][N][32];
  const int b = blockIdx.z, t0 = blockIdx.y * N, tokens = min(N, T - t0);
  const int lane = threadIdx.x, part = threadIdx.y, j = blockIdx.x * 32 + lane;
  const int n = n_active[b], thread = part * 32 + lane;
  const int32_t* active = all_active + static_cast<size_t>(b) * C;
  float sums[N] = {};
  for (int first = 0; first < n; first += CHUNK) {
    const int count = min(CHUNK, n - first);
    for (int i = thread; i < CHUNK * N; i += 32 * SPLIT) {
      const int at = i % CHUNK, t = i / CHUNK;
      if (at >= count) continue;
      const int c = active[first + at];
      const size_t token = static_cast<size_t>(b) * T + t0 + t;
      x[at][t] = t < tokens ? element(a, a_type, token * D + columns[c] % D) : 0;
      if (t == 0) rows[at] = c;
    }
    __syncthreads();
    if (j < d) {
#pragma unroll 4
      for (int i = part; i < count; i += SPLIT) {
        const float value = Value::read(values, static_cast<size_t>(rows[i]) * d + j);
#pragma unroll
        for (int t = 0; t < N; t++) sums[t] += x[i][t] * value;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int t = 0; t < N; t++) parts[part][t][lane] = sums[t];
  __syncthreads();
  if (part >= tokens || j >= d) return;
  float sum = 0;
  for (int p = 0; p < SPLIT; p++) sum += parts[p][part][lane];
  delta[(static_cast<size_t>(b) * T + t0 + part) * d + j] = sum;
}

#ifdef MEMOIR_EDGE_EMULATE
cudaStream_t stream_of(const Call&) { return nullptr; }
#else
// Also lets some of the freed memory stay with the process: by default all of it goes back to the
// driver whenever a run's end is waited for, and the next run asks for it again.
cudaStream_t stream_of(const Call& call) {
  static const bool kept = [] {
    uint64_t bytes = 64 << 20;
    int device = 0;
    cudaMemPool_t pool = nullptr;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetDefaultMemPool(&pool, device) == cudaSuccess &&
           cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &bytes) == cudaSuccess;
  }();
  (void)kept;
  return static_cast<cudaStream_t>(call.stream());
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, const A&... arguments) {
  kernel<<<grid, block, 0, stream>>>(static_cast<P>(arguments)...);
  check_cuda(cudaGetLastError());
}
#endif

unsigned blocks(size_t n, size_t each) { return static_cast<unsigned>((n + each - 1) / each); }

// Threads that share a key of so many pieces: a power of two, so that a warp is shared out evenly.
int lanes_for(size_t pieces) {
  int lanes = 1;
  while (lanes < 32 && static_cast<size_t>(lanes) < pieces) lanes *= 2;
  return lanes;
}

template <int N>
auto multiply_of(int type) {
  return type == FLOAT16    ? multiply<N, Half>
         : type == BFLOAT16 ? multiply<N, BFloat>
                            : multiply<N, Float>;
}

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
  const size_t best_at = in.B() * words * 4, bits_at = best_at + in.B() * sizeof(Packed);
  const Scratch scratch(bits_at + in.B() * in.D() * 4, bits_at, stream);
  uint32_t *masks = scratch.at<uint32_t>(0), *bits = scratch.at<uint32_t>(bits_at);
  Packed* best = scratch.at<Packed>(best_at);
  auto hash = in.a.type == FLOAT16    ? feature<Half>
              : in.a.type == BFLOAT16 ? feature<BFloat>
                                      : feature<Float>;
  launch(hash, dim3(blocks(in.D(), 128), B), 128, stream, in.a.data, in.span.as<int64_t>(), route,
         in.center.as<float>(), in.scale.as<float>(), T, D, bits);
  launch(write_masks, B, BLOCK, stream, bits, route, in.permutation.as<int32_t>(), D, k, words,
         masks);
  const size_t piece = W % 16 == 0 ? 16 : W % 4 == 0 ? 4 : 1;
  auto search = piece == 16  ? best_keys<uint4>
                : piece == 4 ? best_keys<uint32_t>
                             : best_keys<uint8_t>;
  const int lanes = lanes_for(W / piece);
  const dim3 grid(std::min(blocks(in.R(), THREADS / lanes), GRID), blocks(in.B(), QUERIES));
  launch(search, grid, THREADS, stream, in.bank.as<uint8_t>(), masks, route, B, R, W, words, lanes,
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
  const Scratch scratch((in.B() * in.C() + in.B()) * 4, 0, stream);
  int *n_active = scratch.at<int>(0), *active = n_active + B;
  launch(gather, B, BLOCK, stream, in.route.as<int64_t>(), in.bank.as<uint8_t>(),
         in.tile.as<int32_t>(), in.columns.as<int32_t>(), static_cast<int64_t>(in.bank.size[0]),
         static_cast<int>(in.bank.size[1]), C, D, active, n_active);
  const int tokens = T == 1 ? 1 : TOKENS;
  auto product = T == 1 ? multiply_of<1>(in.values.type) : multiply_of<TOKENS>(in.values.type);
  const dim3 grid(blocks(in.d(), 32), blocks(in.T(), tokens), B);
  launch(product, grid, dim3(32, SPLIT), stream, in.a.data, in.a.type, in.values.data,
         in.columns.as<int32_t>(), active, n_active, T, D, C, d, delta);
}

}  // namespace memoir_edge
