// The library as ONNX Runtime sees it: two ops of one domain.
#include <utility>
#include <vector>

#include "exported.h"
#include "kernels.h"
#include "tensors.h"

namespace memoir_edge {
namespace {

constexpr size_t K = 9;     // Route's last input is read on the host, whatever the device
constexpr size_t TILE = 5;  // Recall's last input: a graph of an earlier version has none
constexpr size_t NONE = ~size_t{0};

struct Op : OrtCustomOp {
  const char* name;
  const char* provider;  // null: CPU
  std::vector<int> inputs, outputs;
  size_t optional;  // input
};

const Op& of(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

// A kernel needs nothing but ONNX Runtime's functions: it is a pointer to them.
OrtStatus* create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo*, void** kernel) {
  *kernel = const_cast<OrtApi*>(api);
  return nullptr;
}

template <void (*compute)(const Call&)>
OrtStatus* run(void* kernel, OrtKernelContext* context) {
  const Ort ort{static_cast<const OrtApi*>(kernel)};
  return guarded(ort, "memoir_edge: the op failed", [&] { compute(Call(ort, context)); });
}

// An op without state: everything but its name, device, types and computation is the same for all.
template <void (*compute)(const Call&)>
Op make(const char* name, const char* provider, std::vector<int> inputs, std::vector<int> outputs,
        size_t optional) {
  Op made{};
  made.name = name;
  made.provider = provider;
  made.inputs = std::move(inputs);
  made.outputs = std::move(outputs);
  made.optional = optional;
  made.version = API_VERSION;
  made.GetName = [](const OrtCustomOp* op) { return of(op).name; };
  made.GetExecutionProviderType = [](const OrtCustomOp* op) { return of(op).provider; };
  made.GetInputType = [](const OrtCustomOp* op, size_t i) { return of(op).inputs[i]; };
  made.GetInputTypeCount = [](const OrtCustomOp* op) { return of(op).inputs.size(); };
  made.GetOutputType = [](const OrtCustomOp* op, size_t i) { return of(op).outputs[i]; };
  made.GetOutputTypeCount = [](const OrtCustomOp* op) { return of(op).outputs.size(); };
  made.KernelDestroy = [](void*) {};
  made.GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) -> int {
    return i == of(op).optional ? OPTIONAL : REQUIRED;
  };
  made.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return REQUIRED; };
  made.GetInputMemoryType = [](const OrtCustomOp*, size_t i) -> int {
    return i == K ? CPU_INPUT : DEVICE;
  };
  made.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  made.CreateKernelV2 = create;
  made.KernelComputeV2 = run<compute>;
  made.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  made.GetEndVersion = [](const OrtCustomOp*) { return 0x7FFFFFFF; };
  return made;
}

template <void (*route)(const Call&), void (*recall)(const Call&)>
void make_both(std::vector<Op>& ops, const char* provider) {
  ops.push_back(make<route>("Route", provider,
                            {ANY, INT64, INT64, UINT8, INT32, FLOAT, FLOAT, FLOAT, INT32, INT64},
                            {INT64, FLOAT, INT64}, NONE));
  ops.push_back(
      make<recall>("Recall", provider, {ANY, INT64, UINT8, INT32, ANY, INT32}, {FLOAT}, TILE));
}

std::vector<Op> make_all() {
  std::vector<Op> ops;
#if defined(MEMOIR_EDGE_EMULATE)
  make_both<compute_route_cuda, compute_recall_cuda>(ops, nullptr);
#else
  make_both<compute_route, compute_recall>(ops, nullptr);
#endif
#if defined(MEMOIR_EDGE_CUDA)
  make_both<compute_route_cuda, compute_recall_cuda>(ops, "CUDAExecutionProvider");
#endif
  return ops;
}

}  // namespace
}  // namespace memoir_edge

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace memoir_edge;
  const OrtApi* api = base->GetApi(API_VERSION);
  if (api == nullptr) return nullptr;  // older than all we know: its function bodies serve
  const Ort ort{api};
  return guarded(ort, "memoir_edge: the ops could not be registered", [&] {
    static const std::vector<Op> ops = make_all();
    OrtCustomOpDomain* domain = nullptr;  // lives as long as the process: sessions refer to it
    check(ort.CreateCustomOpDomain("memoir_edge", &domain));
    for (const Op& op : ops) check(ort.CustomOpDomain_Add(domain, &op));
    check(ort.AddCustomOpDomain(options, domain));
  });
}

const char* memoir_edge_kernels(const char* wanted) {
  const memoir_edge::Kernels* found = memoir_edge::kernels(wanted);
  return found ? found->name : nullptr;
}

int memoir_edge_has_cuda() {
#ifdef MEMOIR_EDGE_CUDA
  return 1;
#else
  return 0;
#endif
}
