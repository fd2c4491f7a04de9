// PyTorch binding of the operator, common to the CPU and CUDA devices.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <limits>
#include <optional>
#include <tuple>

#include "../common/binding.h"
#include "bias_act.h"

// x, dy and ddx have one shape; b belongs to dimension `dim`. Returns the operation's result in the layout of x, and,
// if `with_bias_sum`, its sum over all dimensions but `dim` (else an empty tensor).
#define BIAS_ACT_SCHEMA                                                                                         \
    "bias_act(Tensor x, Tensor? b, Tensor? dy, Tensor? ddx, int operation, int dim, int act, float alpha, "     \
    "float gain, float? clamp, bool with_bias_sum) -> (Tensor, Tensor)"

namespace bias_act {

using OptionalTensor = std::optional<at::Tensor>;

// The tensor in the layout of `like`, which is dense.
inline at::Tensor in_layout_of(const at::Tensor& like, const OptionalTensor& tensor) {
    if (!tensor.has_value()) return {};
    TORCH_CHECK(tensor->sizes() == like.sizes() && tensor->scalar_type() == like.scalar_type() &&
                    tensor->device() == like.device(),
                "bias_act: tensors differ in shape, type or device");
    return tensor->strides() == like.strides() ? *tensor : at::empty_like(like).copy_(*tensor);
}

inline const void* address(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

// `run(arguments, dense x, bias_sum, dim)` computes; bias_sum is undefined if it is not wanted.
template <class Run>
std::tuple<at::Tensor, at::Tensor> apply(const at::Tensor& x, const OptionalTensor& b, const OptionalTensor& dy,
                                         const OptionalTensor& ddx, int64_t operation, int64_t dim, int64_t act,
                                         double alpha, double gain, std::optional<double> clamp, bool with_bias_sum,
                                         const Run& run) {
    TORCH_CHECK(dim >= 0 && dim < x.dim(), "bias_act: no dimension ", dim);
    TORCH_CHECK(act >= LINEAR && act <= SWISH && operation >= FORWARD && operation <= CURVATURE &&
                    exists(static_cast<int>(act), static_cast<int>(operation)),
                "bias_act: no operation ", operation, " of activation ", act);
    TORCH_CHECK((operation == FORWARD || dy.has_value()) && (operation != CURVATURE || ddx.has_value()),
                "bias_act: a gradient is missing");
    const at::Tensor dense = x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
    const at::Tensor dy_dense = in_layout_of(dense, dy), ddx_dense = in_layout_of(dense, ddx);
    at::Tensor bias;
    if (b.has_value()) {
        TORCH_CHECK(b->dim() == 1 && b->size(0) == x.size(dim) && b->scalar_type() == x.scalar_type() &&
                        b->device() == x.device(),
                    "bias_act: the bias does not fit");
        bias = b->contiguous();
    }
    at::Tensor out = at::empty_like(dense);
    at::Tensor bias_sum = with_bias_sum ? at::empty({x.size(dim)}, x.options()) : at::Tensor();
    Arguments a{};
    a.x = address(dense), a.b = address(bias), a.dy = address(dy_dense), a.ddx = address(ddx_dense);
    a.out = out.mutable_data_ptr();
    a.count = x.numel(), a.channels = x.size(dim);
    a.inner = a.channels > 1 ? dense.stride(dim) : 1;
    a.alpha = alpha, a.gain = gain, a.limit = clamp.value_or(std::numeric_limits<double>::quiet_NaN());
    a.type = element_type(x.scalar_type(), "bias_act");
    a.act = static_cast<int>(act), a.operation = static_cast<int>(operation);
    run(a, out, bias_sum, dim);
    return {out, with_bias_sum ? bias_sum : at::empty({0}, x.options())};
}

}  // namespace bias_act
