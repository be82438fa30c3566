#include "bindings/host_layout.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "block_sparse_attention/scheduler.h"
#include "layout/planner.h"

namespace py = pybind11;
namespace plan = longreel::layout;

namespace {

constexpr int64_t kSegmentFields = sizeof(plan::RangeSegment) / sizeof(int64_t);
using Table = py::array_t<int64_t, py::array::c_style>;

constexpr int64_t kMost = int64_t(1) << 31;  // rows and keys of a sample stay below

bool within(int64_t n, int64_t least, int64_t most) { return least <= n && n <= most; }

void refuse(const char* table, size_t row, const char* why) {
  throw py::value_error(std::string(table) + " row " + std::to_string(row) + ": " + why);
}

// The one check of what the planner reads: behind it nothing goes out of bounds, divides by zero or counts beyond 64 bits.
void check(const plan::RangeSegment& segment, size_t row) {
  const auto small = [](int64_t n) { return within(n, 0, kMost); };
  if (!small(segment.sample) || !small(segment.row) || !small(segment.glo) || !small(segment.ghi))
    refuse("ranges", row, "out of 0 .. 2^31");
  if (!within(segment.rows, 1, kMost)) refuse("ranges", row, "it has no rows");
  if (!within(segment.over, 1, kMost)) refuse("ranges", row, "its steps are divided by less than 1");
  if (!within(segment.lo_step, 0, 1) || !small(segment.up) || !within(segment.carry, 0, segment.over))
    refuse("ranges", row, "its steps");
  if (!small(segment.lo) || !small(segment.hi) || segment.hi_at(segment.rows - 1) > kMost) refuse("ranges", row, "its keys");
  if (!segment.sees_keys() && segment.lo < 1) refuse("ranges", row, "rows that see no key stand behind one");
}

// Keys that the table's rows see are there.
void check_keys(const std::vector<plan::RangeSegment>& segments, const std::vector<int64_t>& keys,
                const std::vector<int64_t>& global_keys) {
  if (keys.size() != global_keys.size()) throw py::value_error("keys and global_keys have one number a sample");
  for (size_t b = 0; b < keys.size(); ++b)
    if (!within(keys[b], 0, kMost) || !within(global_keys[b], 0, kMost)) refuse("keys", b, "out of 0 .. 2^31");
  for (size_t r = 0; r < segments.size(); ++r) {
    const plan::RangeSegment& segment = segments[r];
    if (segment.sample >= int64_t(keys.size())) refuse("ranges", r, "there is no such sample");
    const int64_t last = segment.sees_keys() ? segment.hi_at(segment.rows - 1) : segment.lo - 1;
    if (last > keys[segment.sample]) refuse("ranges", r, "its rows see keys that are not there");
    if (segment.sees_global() && segment.ghi > global_keys[segment.sample])
      refuse("ranges", r, "its rows see global keys that are not there");
  }
}

std::vector<plan::RangeSegment> read_ranges(const Table& table) {
  if (table.ndim() != 2 || table.shape(1) != kSegmentFields)
    throw py::value_error("ranges is int64 [R, " + std::to_string(kSegmentFields) + "]");
  std::vector<plan::RangeSegment> segments(table.shape(0));
  if (!segments.empty()) std::memcpy(segments.data(), table.data(), segments.size() * sizeof(plan::RangeSegment));
  for (size_t r = 0; r < segments.size(); ++r) check(segments[r], r);
  return segments;
}

plan::TileShape read_shape(int64_t tile_rows, int64_t tile_keys) {
  if (!within(tile_rows, 1, kMost) || !within(tile_keys, 1, kMost))
    throw py::value_error("a tile has at least 1 row and 1 key, at most 2^31");
  return {tile_rows, tile_keys};
}

// A vector of structs of int32 as an int32 array [n, fields], without a copy.
template <class Struct>
py::array_t<int32_t> as_array(std::vector<Struct>&& structs) {
  constexpr int64_t fields = sizeof(Struct) / sizeof(int32_t);
  auto* held = new std::vector<Struct>(std::move(structs));
  py::capsule owner(held, [](void* p) { delete static_cast<std::vector<Struct>*>(p); });
  const auto* data = reinterpret_cast<const int32_t*>(held->data());
  const int64_t n = int64_t(held->size());
  std::vector<py::ssize_t> shape{n};
  if (fields > 1) shape.push_back(fields);
  return py::array_t<int32_t>(shape, data, owner);
}

py::tuple query_tiles(const Table& table, int64_t tile_rows, int64_t tile_keys) {
  const auto segments = read_ranges(table);
  const plan::TileShape shape = read_shape(tile_rows, tile_keys);
  auto tiles = plan::query_tiles(segments, shape);
  std::vector<int64_t> costs;
  costs.reserve(tiles.size());
  for (const plan::Tile& tile : tiles) costs.push_back(plan::cost(tile, shape));
  auto order = plan::heavy_first(costs);
  return py::make_tuple(as_array(std::move(tiles)), as_array(std::move(order)));
}

py::tuple kv_blocks(const Table& table, const std::vector<int64_t>& keys, const std::vector<int64_t>& global_keys,
                    int64_t tile_rows, int64_t tile_keys, int64_t block_rows) {
  const auto segments = read_ranges(table);
  const plan::TileShape shape = read_shape(tile_rows, tile_keys);
  check_keys(segments, keys, global_keys);
  if (!within(block_rows, 0, kMost)) throw py::value_error("block_rows is 0 to 2^31");
  plan::KvSide side = plan::kv_blocks(segments, keys, global_keys, shape, block_rows);
  std::vector<int64_t> costs;
  costs.reserve(side.kv_blocks.size());
  for (const plan::KvBlock& kv_block : side.kv_blocks) costs.push_back(plan::cost(kv_block, side.query_ranges, shape));
  auto order = plan::heavy_first(costs);
  return py::make_tuple(as_array(std::move(side.kv_blocks)), as_array(std::move(side.query_ranges)),
                        as_array(std::move(order)));
}

py::array_t<int32_t> row_bounds(const Table& table) {
  const auto segments = read_ranges(table);
  int64_t rows = 0;
  for (const plan::RangeSegment& segment : segments) rows += segment.rows;
  py::array_t<int32_t> bounds(std::vector<py::ssize_t>{rows, 4});
  plan::fill_bounds(segments, bounds.mutable_data());
  return bounds;
}

using Ints = py::array_t<int32_t, py::array::c_style>;

int64_t executed_pairs(const Ints& tiles, const Ints& order, int64_t samples, int64_t queries, int64_t heads, int64_t kv_heads,
                       int64_t channels) {
  if (tiles.size() != order.size() * 12) throw py::value_error("tiles is int32 [T, 12] and order int32 [T]");
  for (int64_t n : {samples, queries, heads, kv_heads, channels})
    if (!within(n, 1, kMost))
      throw py::value_error("samples, queries, heads, kv_heads and channels are at least 1, at most 2^31");
  if (heads % kv_heads != 0) throw py::value_error("heads is a multiple of kv_heads");
  for (py::ssize_t t = 0; t < order.size(); ++t) {
    if (!within(order.data()[t], 0, order.size() - 1)) refuse("order", t, "there is no such tile");
    const plan::Tile& tile = reinterpret_cast<const plan::Tile*>(tiles.data())[t];
    if (!within(tile.sample, 0, samples - 1) || !within(tile.row_begin, 0, tile.row_end) || tile.row_end > queries)
      refuse("tiles", t, "its rows are not there");
    for (const plan::TileRange& range : {tile.keys, tile.global})
      if (!(0 <= range.begin && range.begin <= range.full_begin && range.full_begin <= range.full_end &&
            range.full_end <= range.end))
        refuse("tiles", t, "a range is not begin, full_begin, full_end, end in order");
  }
  longreel::AttentionProblem problem{};
  problem.batch = problem.layout.samples = samples;
  problem.queries = queries;
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.channels = channels;
  problem.layout.tiles = reinterpret_cast<const plan::Tile*>(tiles.data());
  problem.layout.order = order.data();
  problem.layout.tile_count = order.size();
  return longreel::executed_pairs(problem);
}

}  // namespace

void bind_layout(py::module_& m) {
  m.def("query_tiles", &query_tiles, py::arg("ranges"), py::arg("tile_rows"), py::arg("tile_keys"),
        "Range segments int64 [R, 11] -> tiles int32 [T, 12] and their order int32 [T], heavy first.");
  m.def("kv_blocks", &kv_blocks, py::arg("ranges"), py::arg("keys"), py::arg("global_keys"), py::arg("tile_rows"),
        py::arg("tile_keys"), py::arg("block_rows"),
        "Range segments -> kv_blocks int32 [U, 6], query_ranges int32 [N, 4] and kv_order int32 [U], heavy first.");
  m.def("executed_pairs", &executed_pairs, py::arg("tiles"), py::arg("order"), py::arg("samples"), py::arg("queries"),
        py::arg("heads"), py::arg("kv_heads"), py::arg("channels"),
        "(query row, key) pairs that the CPU's attention multiplies for one head over all samples, masked lanes among them.");
  m.def("row_bounds", &row_bounds, py::arg("ranges"), "Range segments -> int32 [rows, 4]: lo, hi, glo, ghi of every row.");
}
