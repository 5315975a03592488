// What a convolution connects, and how activations lie in memory. Independent of the instruction set.
#pragma once

#include <cstdint>

namespace regrow {

// nn.Conv2d with groups = 1. nn.Linear is the 1x1 case on a 1x1 plane.
struct ConvShape {
  int64_t out_channels = 0, in_channels = 0;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t padding_h = 0, padding_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;

  int64_t positions() const { return out_channels * in_channels * kernel_h * kernel_w; }
};

// A position in the weight [O, I, kH, kW].
struct Position {
  int64_t o, i, ky, kx;
};
inline Position position_of(int64_t flat, const ConvShape& s) {
  const int64_t kx = flat % s.kernel_w, ky = flat / s.kernel_w % s.kernel_h;
  const int64_t channel = flat / (s.kernel_w * s.kernel_h);
  return {channel / s.in_channels, channel % s.in_channels, ky, kx};
}

inline int64_t conv_out_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}
inline int64_t conv_out_height(const ConvShape& s, int64_t in) {
  return conv_out_size(in, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h);
}
inline int64_t conv_out_width(const ConvShape& s, int64_t in) {
  return conv_out_size(in, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w);
}

// A batch-blocked activation: [blocks][channels][margin_h + height][margin_w + width][lanes].
// The lanes of one vector are images, so a weight meets `lanes` images in one instruction.
// The margin lies above and to the left of a plane and is zero; the margin of the next row (channel) serves
// as the right (lower) border, and `tail` pixels behind the last plane do so for the last one.
// Lanes of images that do not exist (batch tail) are zero too. Every kernel keeps both promises for what it
// writes and relies on them in what it reads. Buffers are 64-byte aligned.
struct Layout {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  int64_t lanes = 1;
  int64_t margin_h = 0, margin_w = 0;

  int64_t blocks() const { return (batch + lanes - 1) / lanes; }
  int64_t row() const { return margin_w + width; }                         // pixels
  int64_t plane() const { return (margin_h + height) * row(); }            // pixels
  int64_t tail() const { return margin_h * row() + margin_w; }             // pixels
  int64_t block_size() const { return channels * plane() * lanes; }        // elements
  int64_t size() const { return blocks() * block_size() + tail() * lanes; }  // elements to allocate
};

// The layout in which conv kernels take and give activations: one zero row and column; a 1x1 plane has none.
inline Layout activation_layout(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t lanes) {
  const int64_t margin = height * width > 1 ? 1 : 0;
  return {.batch = batch,
          .channels = channels,
          .height = height,
          .width = width,
          .lanes = lanes,
          .margin_h = margin,
          .margin_w = margin};
}

// The same planes with a margin of at least this much.
inline Layout with_margin(Layout layout, int64_t margin_h, int64_t margin_w) {
  if (margin_h > layout.margin_h) layout.margin_h = margin_h;
  if (margin_w > layout.margin_w) layout.margin_w = margin_w;
  return layout;
}

}  // namespace regrow
