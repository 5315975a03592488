#include "plans.h"

#include <torch/csrc/stable/ops.h>

#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "check.h"
#include "isa.h"

namespace regrow {
namespace {

template <class Record>
class Registry {
 public:
  explicit Registry(int64_t first) : last_(first) {}
  int64_t add(std::shared_ptr<const Record> record) {
    std::unique_lock lock(mutex_);
    plans_.emplace(++last_, std::move(record));
    return last_;
  }
  void remove(int64_t number) {
    std::unique_lock lock(mutex_);
    plans_.erase(number);
  }
  std::shared_ptr<const Record> find(int64_t number) const {
    std::shared_lock lock(mutex_);
    const auto found = plans_.find(number);
    return found == plans_.end() ? nullptr : found->second;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const Record>> plans_;
  int64_t last_;
};

// Arbitrary starts: small integers are never plans, and no number is one of both kinds.
template <class Record>
constexpr int64_t first_number = int64_t{0x7265} << 32;
template <>
constexpr int64_t first_number<PixelPlanRecord> = int64_t{0x7266} << 32;

// Never destroyed: tensors that own plans may outlive this library's static objects.
template <class Record>
Registry<Record>& registry() {
  static auto* registry = new Registry<Record>(first_number<Record>);
  return *registry;
}

template <class Record>
void free_handle(void* data) {
  auto* number = static_cast<int64_t*>(data);
  registry<Record>().remove(*number);
  delete number;
}

template <class Record>
Tensor handle_of(Record&& record, const Tensor& like) {
  auto* number = new int64_t(registry<Record>().add(std::make_shared<const Record>(std::move(record))));
  const int64_t size = 1, step = 1;
  return torch::stable::from_blob(number, {&size, 1}, {&step, 1}, like.device(), ScalarType::Long,
                                  free_handle<Record>);
}

int64_t number_of(const char* op, const Tensor& handle) {
  if (!handle.is_cpu() || handle.scalar_type() != ScalarType::Long || handle.numel() != 1)
    fail(op, ": plan is a ", dtype_name(handle.scalar_type()), " tensor of shape ", shape_text(handle),
         ", wanted what regrow.ops.make_plan returned");
  return *handle.const_data_ptr<int64_t>();
}

template <class Record>
std::shared_ptr<const Record> find(const char* op, const Tensor& handle) {
  const int64_t number = number_of(op, handle);
  auto record = registry<Record>().find(number);
  if (!record) fail(op, ": no plan has the number ", number, "; it was freed, copied or made in another process. "
                    "Call regrow.ops.make_plan again");
  return record;
}

void check_list(const char* name, const std::vector<int64_t>& list, size_t length, int64_t least) {
  if (list.size() != length) fail("make_plan: ", name, " has ", list.size(), " numbers, wanted ", length);
  for (int64_t value : list)
    if (value < least) fail("make_plan: ", name, " holds ", value, ", wanted at least ", least);
}

ConvShape shape_of(const std::vector<int64_t>& weight_shape, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                   const std::vector<int64_t>& image) {
  check_list("weight_shape", weight_shape, 4, 1);
  check_list("stride", stride, 2, 1);
  check_list("padding", padding, 2, 0);
  check_list("dilation", dilation, 2, 1);
  check_list("image", image, 2, 1);
  return {.out_channels = weight_shape[0],
          .in_channels = weight_shape[1],
          .kernel_h = weight_shape[2],
          .kernel_w = weight_shape[3],
          .stride_h = stride[0],
          .stride_w = stride[1],
          .padding_h = padding[0],
          .padding_w = padding[1],
          .dilation_h = dilation[0],
          .dilation_w = dilation[1]};
}

// body(the indices as a pointer), once all is checked about them.
template <class Body>
auto with_indices(const Tensor& indices, const ConvShape& shape, const Body& body) {
  check_cpu("make_plan", "indices", indices);
  check_dims("make_plan", "indices", indices, 1);
  check_contiguous("make_plan", "indices", indices);
  const auto checked = [&](const auto* flat) {
    const IndexCheck check = check_indices(flat, indices.numel(), shape.positions());
    if (!check.ok()) fail("make_plan: ", check.message());
    return body(flat);
  };
  const ScalarType type = indices.scalar_type();
  if (type == ScalarType::Int) return checked(indices.const_data_ptr<int32_t>());
  if (type == ScalarType::Long) return checked(indices.const_data_ptr<int64_t>());
  fail("make_plan: indices are ", dtype_name(type), ", wanted int32 or int64");
}

}  // namespace

std::shared_ptr<const PlanRecord> find_plan(const char* op, const Tensor& handle) {
  return find<PlanRecord>(op, handle);
}
std::shared_ptr<const PixelPlanRecord> find_pixel_plan(const char* op, const Tensor& handle) {
  return find<PixelPlanRecord>(op, handle);
}

Tensor make_plan(const Tensor& indices, std::vector<int64_t> weight_shape, std::vector<int64_t> stride,
                 std::vector<int64_t> padding, std::vector<int64_t> dilation, std::vector<int64_t> image,
                 ScalarType dtype) {
  const ConvShape shape = shape_of(weight_shape, stride, padding, dilation, image);
  const Target target =
      of_dtype("make_plan", "dtype", dtype, [](auto zero) { return kernels<decltype(zero)>().target; });
  return with_indices(indices, shape, [&](const auto* flat) {
    return handle_of(PlanRecord{PlanStorage(shape, flat, indices.numel(), image[0], image[1], target), dtype}, indices);
  });
}

Tensor make_pixel_plan(const Tensor& indices, std::vector<int64_t> weight_shape, std::vector<int64_t> stride,
                       std::vector<int64_t> padding, std::vector<int64_t> dilation, std::vector<int64_t> image) {
  const ConvShape shape = shape_of(weight_shape, stride, padding, dilation, image);
  return with_indices(indices, shape, [&](const auto* flat) {
    return handle_of(PixelPlanRecord{PixelPlanStorage(shape, flat, indices.numel(), image[0], image[1])}, indices);
  });
}

int64_t plan_bytes(const Tensor& handle) {
  if (const auto pixels = registry<PixelPlanRecord>().find(number_of("plan_bytes", handle))) return pixels->plan().bytes;
  return find_plan("plan_bytes", handle)->plan().bytes;
}

}  // namespace regrow
