// The library as ONNX Runtime sees it: two ops of one domain.
#include "exported.h"
#include "kernels.h"
#include "tensors.h"

namespace memoir_edge {
namespace {

template <class T, size_t N>
constexpr size_t count(const T (&)[N]) {
  return N;
}

constexpr int ROUTE_IN[] = {ANY, INT64, INT64, UINT8, INT32, FLOAT, FLOAT, FLOAT, INT32, INT64};
constexpr int ROUTE_OUT[] = {INT64, FLOAT, INT64};
constexpr int RECALL_IN[] = {ANY, INT64, UINT8, INT32, ANY};
constexpr int RECALL_OUT[] = {FLOAT};

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

// An op without state: everything but its name, types and computation is the same for all.
template <void (*compute)(const Call&), const int* in, size_t n_in, const int* out, size_t n_out>
OrtCustomOp op(const char* (*name)(const OrtCustomOp*)) {
  OrtCustomOp made{};
  made.version = API_VERSION;
  made.GetName = name;
  made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  made.GetInputType = [](const OrtCustomOp*, size_t i) { return in[i]; };
  made.GetInputTypeCount = [](const OrtCustomOp*) { return n_in; };
  made.GetOutputType = [](const OrtCustomOp*, size_t i) { return out[i]; };
  made.GetOutputTypeCount = [](const OrtCustomOp*) { return n_out; };
  made.KernelDestroy = [](void*) {};
  made.GetInputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return REQUIRED; };
  made.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return REQUIRED; };
  made.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
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

}  // namespace
}  // namespace memoir_edge

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace memoir_edge;
  static const OrtCustomOp route =
      op<compute_route, ROUTE_IN, count(ROUTE_IN), ROUTE_OUT, count(ROUTE_OUT)>(
          [](const OrtCustomOp*) { return "Route"; });
  static const OrtCustomOp recall =
      op<compute_recall, RECALL_IN, count(RECALL_IN), RECALL_OUT, count(RECALL_OUT)>(
          [](const OrtCustomOp*) { return "Recall"; });
  const OrtApi* api = base->GetApi(API_VERSION);
  if (api == nullptr) return nullptr;  // older than all we know: its function bodies serve
  const Ort ort{api};
  OrtCustomOpDomain* domain = nullptr;
  OrtStatus* status = ort.CreateCustomOpDomain("memoir_edge", &domain);
  if (status == nullptr) status = ort.CustomOpDomain_Add(domain, &route);
  if (status == nullptr) status = ort.CustomOpDomain_Add(domain, &recall);
  if (status == nullptr) status = ort.AddCustomOpDomain(options, domain);
  return status;  // the domain lives as long as the process: sessions refer to it
}

const char* memoir_edge_kernels(const char* wanted) {
  const memoir_edge::Kernels* found = memoir_edge::kernels(wanted);
  return found ? found->name : nullptr;
}
