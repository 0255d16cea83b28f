// Random calls of both ops, most of them wrong somewhere.
//
// They go through a stand-in for ONNX Runtime whose tensors are exactly as large as they say: a
// sanitizer sees any byte that is read beyond.
//
//   fuzz_ops [rounds] [seed]           prints how many calls were answered and how many refused
//   fuzz_ops [rounds] [seed] memory    and makes each call again with memory that runs out: at its
//                                      first allocation, its second, and so on
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "exported.h"
#include "ort_abi.h"

struct OrtStatus {
  std::string message;
};
struct OrtTensorTypeAndShapeInfo {
  int type;
  std::vector<int64_t> sizes;
};
struct OrtValue {
  OrtTensorTypeAndShapeInfo info;
  std::unique_ptr<uint8_t[]> bytes;
};
struct OrtKernelContext {
  std::vector<OrtValue> inputs, outputs;
};
struct OrtSessionOptions {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};

// --- Memory that runs out ------------------------------------------------------------------------

static std::atomic<long> allocations_left{-1};  // below zero: memory does not run out

void* operator new(size_t n) {
  const long left = allocations_left;
  void* bytes = left == 0 ? nullptr : std::malloc(n);
  if (bytes == nullptr) throw std::bad_alloc();
  if (left > 0) allocations_left = left - 1;
  return bytes;
}
void operator delete(void* bytes) noexcept { std::free(bytes); }
void operator delete(void* bytes, size_t) noexcept { std::free(bytes); }

namespace {

// What the stand-in itself allocates is always there.
struct Unlimited {
  const long left = allocations_left.exchange(-1);
  ~Unlimited() { allocations_left = left; }
};

std::mt19937_64 dice;

size_t below(size_t n) { return dice() % n; }
bool chance(int percent) { return below(100) < static_cast<size_t>(percent); }

size_t size_of(int type) {
  switch (type) {
    case UINT8:
    case INT8:
      return 1;
    case FLOAT16:
    case BFLOAT16:
      return 2;
    case INT64:
      return 8;
    default:
      return 4;
  }
}

OrtValue tensor(int type, std::vector<int64_t> sizes) {
  size_t n = size_of(type);
  for (int64_t size : sizes) n *= static_cast<size_t>(size);
  OrtValue value{{type, std::move(sizes)}, std::unique_ptr<uint8_t[]>(new uint8_t[n])};
  for (size_t i = 0; i < n; i++) value.bytes[i] = static_cast<uint8_t>(dice());
  return value;
}

template <class T>
OrtValue numbers(int type, size_t n, int64_t low, int64_t high) {
  OrtValue value = tensor(type, {static_cast<int64_t>(n)});
  for (size_t i = 0; i < n; i++) {
    const T number = static_cast<T>(low + static_cast<int64_t>(below(high - low + 1)));
    std::memcpy(&value.bytes[i * sizeof(T)], &number, sizeof(T));
  }
  return value;
}

// --- ONNX Runtime, as far as the ops know it -----------------------------------------------------

OrtStatus* create_status(int, const char* message) {
  const Unlimited here;
  return new OrtStatus{message};
}
OrtStatus* data_of(OrtValue* value, void** out) {
  *out = value->bytes.get();
  return nullptr;
}
OrtStatus* type_of(const OrtTensorTypeAndShapeInfo* info, int* out) {
  *out = info->type;
  return nullptr;
}
OrtStatus* rank_of(const OrtTensorTypeAndShapeInfo* info, size_t* out) {
  *out = info->sizes.size();
  return nullptr;
}
OrtStatus* sizes_of(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t n) {
  std::copy(info->sizes.begin(), info->sizes.begin() + n, out);
  return nullptr;
}
OrtStatus* info_of(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
  const Unlimited here;
  *out = new OrtTensorTypeAndShapeInfo(value->info);
  return nullptr;
}
void release_info(OrtTensorTypeAndShapeInfo* info) { delete info; }
OrtStatus* count_inputs(const OrtKernelContext* context, size_t* out) {
  *out = context->inputs.size();
  return nullptr;
}
OrtStatus* get_input(const OrtKernelContext* context, size_t i, const OrtValue** out) {
  *out = &context->inputs[i];
  return nullptr;
}
OrtStatus* get_output(OrtKernelContext* context, size_t i, const int64_t* sizes, size_t n,
                      OrtValue** out) {
  const Unlimited here;
  constexpr int types[2][3] = {{INT64, FLOAT, INT64}, {FLOAT, 0, 0}};
  const bool recall = context->inputs.size() <= 6;  // Route has ten
  context->outputs[i] = tensor(types[recall][i], {sizes, sizes + n});
  *out = &context->outputs[i];
  return nullptr;
}
// On another thread, and as C would call it: what is thrown there ends the process.
OrtStatus* parallel(const OrtKernelContext*, void (*work)(void*, size_t), size_t n, size_t,
                    void* data) {
  long left = allocations_left.exchange(-1);
  std::thread other([&]() noexcept {
    allocations_left = left;
    for (size_t i = 0; i < n; i++) work(data, i);
    left = allocations_left.exchange(-1);
  });
  other.join();
  allocations_left = left;
  return nullptr;
}
OrtStatus* create_domain(const char*, OrtCustomOpDomain** out) {
  static OrtCustomOpDomain domain;
  *out = &domain;
  return nullptr;
}
OrtStatus* add_op(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  const Unlimited here;
  domain->ops.push_back(op);
  return nullptr;
}
OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  const Unlimited here;
  options->ops = domain->ops;
  return nullptr;
}

OrtApi api;
const OrtApi* get_api(uint32_t version) { return version == API_VERSION ? &api : nullptr; }
const char* version() { return "stand-in"; }

template <class F>
void fill(size_t slot, F* function) {
  api.slots[slot] = reinterpret_cast<void (*)()>(function);
}

// --- Calls ---------------------------------------------------------------------------------------

constexpr int FLOATS[] = {FLOAT, FLOAT16, BFLOAT16};

std::vector<OrtValue> route_inputs(bool& indexed) {
  const int64_t B = 1 + below(4), T = 1 + below(3), D = 1 + below(chance(20) ? 600 : 40);
  const int64_t R = 1 + below(chance(5) ? 40'000 : 20), W = (D + 7) / 8;
  indexed = chance(30);
  std::vector<OrtValue> in;
  in.push_back(tensor(FLOATS[below(3)], {B, T, D}));
  in.push_back(numbers<int64_t>(INT64, B * T, -1, 1));
  in.back().info.sizes = {B, T};
  in.push_back(numbers<int64_t>(INT64, B, chance(50) ? 0 : -1, 1));
  in.push_back(tensor(UINT8, {R, W}));
  in.push_back(numbers<int32_t>(INT32, R, -1, R - 1));
  in.push_back(tensor(FLOAT, {chance(50) ? R : 1}));
  in.push_back(tensor(FLOAT, {D}));
  in.push_back(tensor(FLOAT, {D}));
  in.push_back(numbers<int32_t>(INT32, D, 0, D - 1));
  in.push_back(numbers<int64_t>(INT64, 1, 1, D));
  return in;
}

std::vector<OrtValue> recall_inputs() {
  const int64_t B = 1 + below(4), T = 1 + below(6), D = 1 + below(40), R = 1 + below(9);
  const int64_t tiles = 1 + below(3), C = below(tiles * D + 1), d = 1 + below(200);
  std::vector<OrtValue> in;
  in.push_back(tensor(FLOATS[below(3)], {B, T, D}));
  in.push_back(numbers<int64_t>(INT64, B, -1, R));
  in.push_back(tensor(UINT8, {R, (D + 7) / 8}));
  in.push_back(numbers<int32_t>(INT32, C, 0, tiles * D - 1));
  in.push_back(tensor(FLOATS[below(3)], {C, d}));
  if (tiles > 1 || chance(50)) in.push_back(numbers<int32_t>(INT32, R, 0, tiles - 1));
  return in;
}

// Something wrong: a number out of range, a tensor of another size, type or rank, or none.
void spoil(std::vector<OrtValue>& in) {
  const size_t i = below(in.size());
  OrtValue& value = in[i];
  std::vector<int64_t> sizes = value.info.sizes;
  switch (below(5)) {
    case 0:
      value = tensor(value.info.type, sizes);  // any bits at all
      break;
    case 1:
      sizes[below(sizes.size())] = static_cast<int64_t>(below(50));
      value = tensor(value.info.type, sizes);
      break;
    case 2: {
      constexpr int types[] = {FLOAT, UINT8, INT8, INT32, INT64, FLOAT16, BFLOAT16};
      value = tensor(types[below(7)], sizes);
      break;
    }
    case 3:
      sizes.push_back(1 + below(3));
      value = tensor(value.info.type, sizes);
      break;
    default:
      in.resize(i);
  }
}

// Input i and the number of its elements, if it is a vector of float32.
std::pair<const float*, uint64_t> floats(const std::vector<OrtValue>& in, size_t i) {
  if (i >= in.size() || in[i].info.type != FLOAT || in[i].info.sizes.size() != 1) return {};
  const void* bytes = in[i].bytes.get();
  return {static_cast<const float*>(bytes), static_cast<uint64_t>(in[i].info.sizes[0])};
}

using Status = std::unique_ptr<OrtStatus>;

Status run(const OrtCustomOp* op, OrtKernelContext& context) {
  void* kernel = nullptr;
  op->CreateKernelV2(op, &api, nullptr, &kernel);
  Status status(op->KernelComputeV2(kernel, &context));
  op->KernelDestroy(kernel);
  return status;
}

// The first answer of `attempt` that is no lack of memory, of which there is more each time.
template <class Attempt>
Status at_last(const Attempt& attempt) {
  for (long n = 0;; n++) {
    allocations_left = n;
    Status status = attempt();
    allocations_left = -1;
    if (!status || status->message != "memoir_edge: out of memory") return status;
  }
}

// What the outputs hold, or why there are none.
std::string outcome(const OrtKernelContext& context, const Status& status) {
  std::string all = status ? status->message : "";
  for (const OrtValue& value : context.outputs) {
    size_t n = value.bytes && !status ? size_of(value.info.type) : 0;
    for (int64_t size : value.info.sizes) n *= static_cast<size_t>(size);
    all.append(reinterpret_cast<const char*>(value.bytes.get()), n);
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10'000;
  dice.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  const bool scarce = argc > 3;
  fill(0, create_status), fill(26, create_domain), fill(27, add_op), fill(28, add_domain);
  fill(51, data_of), fill(60, type_of), fill(61, rank_of), fill(62, sizes_of), fill(65, info_of);
  fill(88, count_inputs), fill(90, get_input), fill(91, get_output), fill(99, release_info);
  fill(274, parallel);
  const OrtApiBase base{get_api, version};
  OrtSessionOptions options;
  auto registered = [&] { return Status(RegisterCustomOps(&options, &base)); };
  if ((scarce ? at_last(registered) : registered()) || options.ops.size() != 2) return 1;

  size_t answered = 0, refused = 0, wrongly = 0;
  for (size_t round = 0; round < rounds; round++) {
    constexpr const char* sets[] = {"baseline", "avx2", "avx512"};
    memoir_edge_kernels(sets[below(3)]);  // one that the machine lacks changes nothing
    const OrtCustomOp* op = options.ops[below(2)];
    const bool route = std::strcmp(op->GetName(op), "Route") == 0, sound = chance(30);
    bool indexed = false;
    OrtKernelContext context;
    context.inputs = route ? route_inputs(indexed) : recall_inputs();
    context.outputs.resize(3);
    if (!sound) spoil(context.inputs);
    const uint8_t* bank = nullptr;
    if (indexed && context.inputs.size() > 3 && context.inputs[3].info.sizes.size() == 2) {
      const auto& sizes = context.inputs[3].info.sizes;
      bank = context.inputs[3].bytes.get();
      if (context.inputs[3].info.type != UINT8) bank = nullptr;
      const uint64_t features = 8 * (1 + below(40));
      const auto [thresholds, T] = floats(context.inputs, 5);
      for (long n = 0; bank != nullptr && scarce && n < 8; n++) {
        allocations_left = n;
        memoir_edge_index(bank, sizes[0], sizes[1], features, thresholds, T);
        allocations_left = -1;
        memoir_edge_forget(bank);
      }
      if (bank != nullptr) memoir_edge_index(bank, sizes[0], sizes[1], features, thresholds, T);
    }
    Status status = run(op, context);
    if (scarce) {
      const std::string plenty = outcome(context, status);
      const Status again = at_last([&] { return run(op, context); });
      if (outcome(context, again) != plenty) wrongly++, std::puts("another answer at last");
    }
    if (bank != nullptr) memoir_edge_forget(bank);
    (status ? refused : answered)++;
    wrongly += sound && status != nullptr;
    if (sound && status) std::printf("refused: %s\n", status->message.c_str());
  }
  std::printf("%zu answered, %zu refused, %zu of them wrongly\n", answered, refused, wrongly);
  return wrongly != 0;
}
