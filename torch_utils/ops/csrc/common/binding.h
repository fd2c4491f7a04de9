// Common part of the PyTorch bindings of all operators.
#pragma once

#include <ATen/core/Tensor.h>

#include "platform.h"

// The number of a tensor's element type in the operators; `name` is the operator's, for the message.
inline int element_type(at::ScalarType type, const char* name) {
    switch (type) {
        case at::kFloat: return FLOAT;
        case at::kDouble: return DOUBLE;
        case at::kHalf: return HALF;
        case at::kBFloat16: return BFLOAT16;
        default: TORCH_CHECK(false, name, ": tensors of type ", type, " are not supported");
    }
}
