// bias_act for CUDA tensors.
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "bias_act_binding.h"

EXPORT const char* bias_act_launch(const bias_act::Arguments* arguments, void* stream);

namespace {

using bias_act::OptionalTensor;

std::tuple<at::Tensor, at::Tensor> run(const at::Tensor& x, const OptionalTensor& b, const OptionalTensor& dy,
                                       const OptionalTensor& ddx, int64_t operation, int64_t dim, int64_t act,
                                       double alpha, double gain, std::optional<double> clamp, bool with_bias_sum) {
    TORCH_CHECK(x.is_cuda(), "bias_act: a CUDA tensor is needed");
    const c10::cuda::CUDAGuard guard(x.device());
    const auto launch = [](const bias_act::Arguments& a, const at::Tensor& out, at::Tensor& bias_sum, int64_t dim) {
        const char* error = bias_act_launch(&a, c10::cuda::getCurrentCUDAStream().stream());
        TORCH_CHECK(error == nullptr, "bias_act: ", error);
        if (bias_sum.defined()) {
            std::vector<int64_t> others;
            for (int64_t i = 0; i < out.dim(); i++) {
                if (i != dim) others.push_back(i);
            }
            bias_sum = others.empty() ? out.clone() : at::sum(out, others);
        }
    };
    return bias_act::apply(x, b, dy, ddx, operation, dim, act, alpha, gain, clamp, with_bias_sum, launch);
}

TORCH_LIBRARY_FRAGMENT(video3d_cuda, m) { m.def(BIAS_ACT_SCHEMA, &run); }

}  // namespace
