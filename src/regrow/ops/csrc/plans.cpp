#include "plans.h"

#include <torch/csrc/stable/ops.h>

#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "check.h"
#include "isa.h"

namespace regrow {
namespace {

class Registry {
 public:
  int64_t add(std::shared_ptr<const PlanRecord> record) {
    std::unique_lock lock(mutex_);
    plans_.emplace(++last_, std::move(record));
    return last_;
  }
  void remove(int64_t number) {
    std::unique_lock lock(mutex_);
    plans_.erase(number);
  }
  std::shared_ptr<const PlanRecord> find(int64_t number) const {
    std::shared_lock lock(mutex_);
    const auto found = plans_.find(number);
    return found == plans_.end() ? nullptr : found->second;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const PlanRecord>> plans_;
  int64_t last_ = int64_t{0x7265} << 32;  // an arbitrary start: small integers are never plans
};

// Never destroyed: tensors that own plans may outlive this library's static objects.
Registry& registry() {
  static Registry* registry = new Registry;
  return *registry;
}

void free_handle(void* data) {
  auto* number = static_cast<int64_t*>(data);
  registry().remove(*number);
  delete number;
}

void check_list(const char* name, const std::vector<int64_t>& list, size_t length, int64_t least) {
  if (list.size() != length) fail("make_plan: ", name, " has ", list.size(), " numbers, wanted ", length);
  for (int64_t value : list)
    if (value < least) fail("make_plan: ", name, " holds ", value, ", wanted at least ", least);
}

template <class Index>
std::shared_ptr<const PlanRecord> build(const Tensor& indices, const ConvShape& shape,
                                        const std::vector<int64_t>& image, ScalarType dtype) {
  const Index* flat = indices.const_data_ptr<Index>();
  const IndexCheck check = check_indices(flat, indices.numel(), shape.positions());
  if (!check.ok()) fail("make_plan: ", check.message());
  const Target target =
      of_dtype("make_plan", "dtype", dtype, [](auto zero) { return kernels<decltype(zero)>().target; });
  return std::make_shared<const PlanRecord>(
      PlanRecord{PlanStorage(shape, flat, indices.numel(), image[0], image[1], target), dtype});
}

}  // namespace

std::shared_ptr<const PlanRecord> find_plan(const char* op, const Tensor& handle) {
  if (!handle.is_cpu() || handle.scalar_type() != ScalarType::Long || handle.numel() != 1)
    fail(op, ": plan is a ", dtype_name(handle.scalar_type()), " tensor of shape ", shape_text(handle),
         ", wanted what regrow.ops.make_plan returned");
  const int64_t number = *handle.const_data_ptr<int64_t>();
  auto record = registry().find(number);
  if (!record) fail(op, ": no plan has the number ", number, "; it was freed, copied or made in another process. "
                    "Call regrow.ops.make_plan again");
  return record;
}

Tensor make_plan(const Tensor& indices, std::vector<int64_t> weight_shape, std::vector<int64_t> stride,
                 std::vector<int64_t> padding, std::vector<int64_t> dilation, std::vector<int64_t> image,
                 ScalarType dtype) {
  check_list("weight_shape", weight_shape, 4, 1);
  check_list("stride", stride, 2, 1);
  check_list("padding", padding, 2, 0);
  check_list("dilation", dilation, 2, 1);
  check_list("image", image, 2, 1);
  check_cpu("make_plan", "indices", indices);
  check_dims("make_plan", "indices", indices, 1);
  check_contiguous("make_plan", "indices", indices);
  const ConvShape shape{.out_channels = weight_shape[0],
                        .in_channels = weight_shape[1],
                        .kernel_h = weight_shape[2],
                        .kernel_w = weight_shape[3],
                        .stride_h = stride[0],
                        .stride_w = stride[1],
                        .padding_h = padding[0],
                        .padding_w = padding[1],
                        .dilation_h = dilation[0],
                        .dilation_w = dilation[1]};
  const ScalarType type = indices.scalar_type();
  if (type != ScalarType::Int && type != ScalarType::Long)
    fail("make_plan: indices are ", dtype_name(type), ", wanted int32 or int64");
  auto record = type == ScalarType::Int ? build<int32_t>(indices, shape, image, dtype)
                                        : build<int64_t>(indices, shape, image, dtype);
  auto* number = new int64_t(registry().add(std::move(record)));
  const int64_t size = 1, step = 1;
  return torch::stable::from_blob(number, {&size, 1}, {&step, 1}, indices.device(), ScalarType::Long, free_handle);
}

int64_t plan_bytes(const Tensor& handle) { return find_plan("plan_bytes", handle)->plan().bytes; }

}  // namespace regrow
